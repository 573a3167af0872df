// The definitions of kernel.h's two functions, for both inner models.
#pragma once

#include "scan.h"

namespace ttt {

template <class Pass, class Call>
void run_pairs(const Call& call, long begin, long end) {
    Pass pass(call);
    for (long pair = begin; pair < end; pair++) pass.run(pair);
}

template <class T>
void forward_pairs(const Forward<T>& call, long begin, long end) {
    if (call.in.sizes.F) {
        run_pairs<ForwardScan<T, MLP<T>>>(call, begin, end);
    } else {
        run_pairs<ForwardScan<T, Linear<T>>>(call, begin, end);
    }
}

template <class T>
void backward_pairs(const Backward<T>& call, long begin, long end) {
    if (call.in.sizes.F) {
        run_pairs<BackwardScan<T, MLP<T>>>(call, begin, end);
    } else {
        run_pairs<BackwardScan<T, Linear<T>>>(call, begin, end);
    }
}

}  // namespace ttt
