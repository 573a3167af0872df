// The cross entropy of logits with its gradient as the operator ttt_cpu::cross_entropy_. loss.py has its schema and its
// fake version.
//
// Shapes: N tokens, V vocabulary.
#include "row.h"
#include "tensors.h"

namespace ttt {
namespace {

template <class T>
INLINE T largest(Read<T> x) {
    Vector<T> found = all(x.at[0]);
    long v = 0;
    for (; v + LANES<T> <= x.C; v += LANES<T>) {
        const Vector<T> here = x[v];
        found = here > found ? here : found;
    }
    T result = found[0];
    for (int lane = 1; lane < LANES<T>; lane++) result = std::max(result, found[lane]);
    for (; v < x.C; v++) result = std::max(result, x.at[v]);
    return result;
}

// Returns the cross entropy of a token. Turns its logits into softmax(logits), less 1 at the target: the gradient.
// Infinity and NaN give NaN.
template <class T>
T cross_entropy(Row<T> logits, int64_t target) {
    const T shift = largest<T>({logits.at, logits.C}), of_target = logits.at[target] - shift;
    Vector<T> sums{};
    T sum = 0;
    along_row<T>(logits.C, [&](long v) INLINE_LAMBDA {
        const Vector<T> p = exp_of_negative(logits[v] - shift);
        logits.set(v, p);
        if (v + LANES<T> <= logits.C) {
            sums += p;
        } else {
            for (long lane = 0; lane < logits.C - v; lane++) sum += p[lane];
        }
    });
    sum += sum_lanes<T>(sums);
    const T scale = 1 / sum;
    along_row<T>(logits.C, [&](long v) INLINE_LAMBDA { logits.set(v, logits[v] * scale); });
    logits.at[target] -= 1;
    return std::log(sum) - of_target;
}

// Returns the losses [N], and overwrites the logits [N, V] with the gradients of each.
Tensor cross_entropy_(const Tensor& logits, const Tensor& targets_any) {
    TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "logits are [N, V], not ", logits.sizes());
    TORCH_CHECK(logits.is_contiguous(), "logits are not contiguous");
    TORCH_CHECK(targets_any.scalar_type() == at::kLong, "targets are int64, not ", targets_any.scalar_type());
    const int64_t N = logits.size(0), V = logits.size(1);
    expect_shape(targets_any, {N});
    const Tensor targets = targets_any.contiguous(), losses = at::empty({N}, logits.options());
    const int64_t* const target = targets.const_data_ptr<int64_t>();
    for (int64_t n = 0; n < N; n++) TORCH_CHECK(0 <= target[n] && target[n] < V, "target ", target[n], " of ", V);
    with_type(logits, [&](auto zero) {
        using T = decltype(zero);
        T *const from = logits.data_ptr<T>(), *const to = losses.data_ptr<T>();
        at::parallel_for(0, N, 16, [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; n++) to[n] = cross_entropy<T>({from + n * V, V}, target[n]);
        });
    });
    return losses;
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_IMPL(ttt_cpu, CPU, library) { library.impl("cross_entropy_", &ttt::cross_entropy_); }
