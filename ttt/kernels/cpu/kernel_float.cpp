// The inner loop in float32: a translation unit of its own, so that the two are compiled side by side.
#include "pairs.h"

namespace ttt {

template void forward_pairs(const Forward<float>&, long, long);
template void backward_pairs(const Backward<float>&, long, long);

}  // namespace ttt
