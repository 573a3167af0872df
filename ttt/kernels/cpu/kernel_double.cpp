// The inner loop in float64, for tests; a separate file, so that it and float32 compile in parallel.
#include "pairs.h"

namespace ttt {

template void forward_pairs(const Forward<double>&, long, long);
template void backward_pairs(const Backward<double>&, long, long);

}  // namespace ttt
