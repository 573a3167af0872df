// The inner loop in float64, which is for tests; of its own, so that it and float32 are compiled side by side.
#include "pairs.h"

namespace ttt {

template void forward_pairs(const Forward<double>&, long, long);
template void backward_pairs(const Backward<double>&, long, long);

}  // namespace ttt
