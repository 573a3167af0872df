// The inner loop in float32; see kernel_double.cpp.
#include "pairs.h"

namespace ttt {

template void forward_pairs(const Forward<float>&, long, long);
template void backward_pairs(const Backward<float>&, long, long);

}  // namespace ttt
