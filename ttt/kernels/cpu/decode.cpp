// The steps of decoding one token, which a model adds in their order, as the class ttt_cpu::TokenSteps. decode.py has the
// same methods with descriptions. Each step keeps the tensors that it reads and writes; their sizes are checked here.
//
// Shapes: C channels, K inputs or taps, N outputs or state size, H heads, D head width, b mini-batch size.
#include <torch/custom_class.h>

#include <functional>

#include "tensors.h"
#include "decode_inner.h"

namespace ttt {
namespace {

using std::vector;

// Numbers that a thread reads at least; waking a thread takes as long as reading some ten thousands.
constexpr int64_t NUMBERS_PER_THREAD = 1 << 16;

// Calls work(begin, end) for ranges of `count` parts that each read this many numbers.
template <class Work>
void in_parallel(int64_t count, int64_t numbers, const Work& work) {
    at::parallel_for(0, count, std::max<int64_t>(NUMBERS_PER_THREAD / numbers, 1), work);
}

template <class T>
T* numbers(const Tensor& x) {
    return x.data_ptr<T>();
}

// One step: the tensors, of one type, and a function that the program calls for each token.
struct TokenSteps : torch::CustomClassHolder {
    vector<std::function<void()>> steps, settles;
    vector<Tensor> kept;

    void run() const {
        for (const auto& step : steps) step();
    }

    void settle() const {
        for (const auto& step : settles) step();
    }

    // Keeps the tensors and adds the step that `make` returns for their type.
    template <class Make>
    void add(const vector<Tensor>& tensors, const Make& make) {
        for (const Tensor& x : tensors) {
            TORCH_CHECK(x.is_contiguous(), "a step needs contiguous tensors");
            TORCH_CHECK(x.scalar_type() == tensors[0].scalar_type(), "a step's tensors differ in type");
            kept.push_back(x);
        }
        with_type(tensors[0], [&](auto zero) { steps.push_back(make(zero)); });
    }

    void join(const c10::intrusive_ptr<TokenSteps>& more) {
        steps.insert(steps.end(), more->steps.begin(), more->steps.end());
        settles.insert(settles.end(), more->settles.begin(), more->settles.end());
        kept.insert(kept.end(), more->kept.begin(), more->kept.end());
    }

    void embed(const Tensor& ids, const Tensor& weight, const Tensor& y) {
        TORCH_CHECK(ids.numel() == 1 && ids.scalar_type() == at::kLong && weight.dim() == 2, "expected one id");
        expect_shape(y, {weight.size(1)});
        kept.push_back(ids);
        add({weight, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            const T* const rows = numbers<T>(weight);
            return [=, C = y.numel(), V = weight.size(0), id = ids.data_ptr<int64_t>(), to = numbers<T>(y)] {
                TORCH_CHECK(0 <= *id && *id < V, "token ", *id, " is not in a vocabulary of ", V);
                std::memcpy(to, rows + *id * C, C * sizeof(T));
            };
        });
    }

    void linear(const Tensor& x, const Tensor& weight, const Tensor& y) {
        expect_shape(weight, {y.numel(), x.numel()});
        add({x, weight, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [K = x.numel(), N = y.numel(), in = numbers<T>(x), W = numbers<T>(weight), to = numbers<T>(y)] {
                constexpr int64_t ROWS = ROWS_AT_ONCE<T>;
                in_parallel((N + ROWS - 1) / ROWS, ROWS * K, [&](int64_t begin, int64_t end) {
                    multiply_vector(K, W, in, to, begin * ROWS, std::min(end * ROWS, N));
                });
            };
        });
    }

    void add_to(const Tensor& x, const Tensor& y) {
        expect_shape(x, y.sizes());
        add({x, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [C = x.numel(), from = numbers<T>(x), to = numbers<T>(y)] {
                for (int64_t c = 0; c < C; c++) to[c] += from[c];
            };
        });
    }

    void rms_norm(const Tensor& x, const Tensor& weight, double eps, const Tensor& y) {
        for (const Tensor& each : {weight, y}) expect_shape(each, x.sizes());
        add({x, weight, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [=, C = x.numel(), from = numbers<T>(x), scale = numbers<T>(weight), to = numbers<T>(y)] {
                rms_norm_vector<T>(C, from, scale, T(eps), to);
            };
        });
    }

    void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, const Tensor& y) {
        for (const Tensor& each : {weight, bias, y}) expect_shape(each, x.sizes());
        add({x, weight, bias, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [=, C = x.numel(), from = numbers<T>(x), scale = numbers<T>(weight), shift = numbers<T>(bias),
                    to = numbers<T>(y)] {
                standardise_vector<T>(C, from, T(eps), to);
                for (int64_t c = 0; c < C; c++) to[c] = to[c] * scale[c] + shift[c];
            };
        });
    }

    // y *= silu(gate), or GELU in its tanh form.
    void gate(const Tensor& gate, bool gelu, const Tensor& y) {
        expect_shape(gate, y.sizes());
        add({gate, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [=, C = y.numel(), from = numbers<T>(gate), to = numbers<T>(y)] {
                each_vector<T>(C, [&](long c, long left) {
                    const Vector<T> x = read(from + c, left);
                    write(to + c, left, read(to + c, left) * (gelu ? Gelu<T>(x).value : x * logistic<T>(x)));
                });
            };
        });
    }

    void silu(const Tensor& x) {
        add({x}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [C = x.numel(), at = numbers<T>(x)] {
                each_vector<T>(C, [&](long c, long left) {
                    const Vector<T> from = read(at + c, left);
                    write(at + c, left, from * logistic<T>(from));
                });
            };
        });
    }

    // y = factor * sigmoid(y + bias).
    void rate(const Tensor& bias, double factor, const Tensor& y) {
        expect_shape(bias, y.sizes());
        add({bias, y}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [=, H = y.numel(), shift = numbers<T>(bias), to = numbers<T>(y)] {
                each_vector<T>(H, [&](long h, long left) {
                    write(to + h, left, T(factor) * logistic<T>(read(to + h, left) + read(shift + h, left)));
                });
            };
        });
    }

    void convolve(const Tensor& x, const Tensor& taps, const vector<Tensor>& bias, const Tensor& inputs,
                  const Tensor& y) {
        TORCH_CHECK(taps.dim() == 2 && taps.size(1) > 0 && bias.size() < 2, "taps are [C, K]");
        expect_shape(taps, {x.numel(), taps.size(1)});
        expect_shape(inputs, {1, taps.size(1) - 1, x.numel()});
        expect_shape(y, x.sizes());
        for (const Tensor& each : bias) expect_shape(each, x.sizes());
        vector<Tensor> all{x, taps, inputs, y};
        all.insert(all.end(), bias.begin(), bias.end());
        add(all, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            const T* const shift = bias.empty() ? nullptr : numbers<T>(bias[0]);
            return [=, C = x.numel(), K = taps.size(1), from = numbers<T>(x), w = numbers<T>(taps),
                    before = numbers<T>(inputs), to = numbers<T>(y)] {
                convolve_token<T>(C, K, from, w, shift, before, to);
            };
        });
    }

    // Rotates x [H, D] by the row of turns [period, D / 2, 2] at the place in the mini-batch.
    void rotate(const Tensor& x, const Tensor& turns, const Tensor& place) {
        TORCH_CHECK(x.dim() == 2 && turns.dim() == 3 && turns.size(0) > 0, "expected x [H, D]");
        expect_shape(turns, {turns.size(0), x.size(1) / 2, 2});
        const int32_t* const at = place_of(place);
        add({x, turns}, [&](auto zero) -> std::function<void()> {
            using T = decltype(zero);
            return [=, H = x.size(0), D = x.size(1), period = turns.size(0), to = numbers<T>(x),
                    turn = numbers<T>(turns)] { rotate_token<T>(H, D, turn + *at % period * D, to); };
        });
    }

    const int32_t* place_of(const Tensor& place) {
        TORCH_CHECK(place.numel() == 1 && place.scalar_type() == at::kInt, "expected a place, a scalar of int32");
        kept.push_back(place);
        return place.data_ptr<int32_t>();
    }

    void inner(const vector<Tensor>& W, const vector<Tensor>& sums, bool bias, const Tensor& scale, const Tensor& shift,
               const vector<Tensor>& views, const Tensor& eta, const Tensor& tau, const Tensor& place, const Tensor& z);

    void scan(const vector<Tensor>& in, const Tensor& h, const Tensor& y);
};

// The inner loop of all heads, and the pairs that they keep within a mini-batch.
template <class T>
struct InnerHeads {
    int64_t H, D, F, b;
    int32_t* place;
    vector<HeadState<T>> states;
    const T *q, *k, *v, *scale, *shift, *eta, *tau;
    T *z, *work;
    int64_t pairs = 0;

    // Calls method(InnerToken) for every head.
    template <class Method>
    void each_head(const Method& method) {
        const int64_t i = *place % b;
        in_parallel(H, (D + 1) * (F ? 2 * F : D), [&](int64_t begin, int64_t end) {
            for (int64_t h = begin; h < end; h++) {
                const int64_t own = h * D;
                const HeadToken<T> token{q + own, k + own, v + own,   scale + own, shift + own, eta[h],
                                         tau[i],  pairs,   i > pairs, i + 1 == b,  z + own};
                method(InnerToken<T>(D, F, states[h], token, b, work + h * InnerToken<T>::space(D, F, b)));
            }
        });
    }

    void run() {
        each_head([](InnerToken<T> token) { token.run(); });
        pairs = ++*place % b ? pairs + 1 : 0;
    }

    void settle() {
        if (pairs) each_head([](InnerToken<T> token) { token.settle(); });
        pairs = 0;
    }
};

// The inner loop with the state of all heads. 1 is added to the place.
void TokenSteps::inner(
    const vector<Tensor>& W, const vector<Tensor>& sums, bool bias, const Tensor& scale, const Tensor& shift,
    const vector<Tensor>& views, const Tensor& eta, const Tensor& tau, const Tensor& place, const Tensor& z
) {
    const size_t step = bias ? 1 : 2;  // between the tensors W1, b1, W2, b2 that there are
    TORCH_CHECK(W.size() * step == 2 || W.size() * step == 4, "the inner model has one or two layers");
    const int64_t H = z.size(0), D = z.size(1), F = W.size() * step == 4 ? W[2 / step].size(2) : 0, b = tau.numel();
    TORCH_CHECK(D > 0 && D % 16 == 0 && F % 16 == 0, "widths of the inner model must be multiples of 16");
    TORCH_CHECK(views.size() == 3 && W.size() == sums.size(), "expected q, k and v, and a sum for every tensor of W");
    const int64_t O = F ? F : D;
    const int64_t inputs[] = {D, 1, F, 1}, outputs[] = {O, O, D, D};
    for (size_t i = 0; i < W.size(); i++) {
        for (const Tensor& x : {W[i], sums[i]}) expect_shape(x, {1, H, inputs[i * step], outputs[i * step]});
    }
    for (const Tensor& x : views) expect_shape(x, z.sizes());
    for (const Tensor& x : {scale, shift}) expect_shape(x, {H, 1, D});
    expect_shape(eta, {H});
    vector<Tensor> all{scale, shift, eta, tau, z};
    for (const auto& group : {W, sums, views}) all.insert(all.end(), group.begin(), group.end());
    vector<Tensor> pairs;  // x and g of both layers, then the working memory
    for (const int64_t width : {D, O, F, F ? D : 0}) pairs.push_back(at::empty({H, b, width}, z.options()));
    pairs.push_back(at::empty({H, InnerToken<float>::space(D, F, b)}, z.options()));
    all.insert(all.end(), pairs.begin(), pairs.end());
    place_of(place);
    add(all, [&](auto zero) -> std::function<void()> {
        using T = decltype(zero);
        const auto of_head = [](const Tensor& x, int64_t h) { return numbers<T>(x) + h * (x.numel() / x.size(-3)); };
        vector<HeadState<T>> states(H);
        for (int64_t h = 0; h < H; h++) {
            for (size_t i = 0; i < W.size(); i++) {
                states[h].W[i * step] = of_head(W[i], h), states[h].sum[i * step] = of_head(sums[i], h);
            }
            for (int i : {0, 1}) states[h].x[i] = of_head(pairs[2 * i], h), states[h].g[i] = of_head(pairs[2 * i + 1], h);
        }
        const auto x = [](const Tensor& each) { return numbers<T>(each); };
        const auto heads = std::make_shared<InnerHeads<T>>(InnerHeads<T>{
            H, D, F, b, place.data_ptr<int32_t>(), states, x(views[0]), x(views[1]), x(views[2]), x(scale), x(shift),
            x(eta), x(tau), x(z), x(pairs[4])});
        settles.push_back([=] { heads->settle(); });
        return [=] { heads->run(); };
    });
}

// Mamba's recurrence and gate; `in` has u, dt, dt's bias, A [E, N], B, C, D and the gate.
void TokenSteps::scan(const vector<Tensor>& in, const Tensor& h, const Tensor& y) {
    TORCH_CHECK(in.size() == 8 && in[3].dim() == 2, "expected u, dt, bias, A, B, C, D and gate");
    const int64_t E = y.numel(), N = in[3].size(1);
    for (const int i : {0, 1, 2, 6, 7}) expect_shape(in[i], {E});
    for (const int i : {4, 5}) expect_shape(in[i], {N});
    expect_shape(in[3], {E, N});
    expect_shape(h, {1, E, N});
    vector<Tensor> all{h, y, at::empty({E}, y.options())};
    all.insert(all.end(), in.begin(), in.end());
    add(all, [&](auto zero) -> std::function<void()> {
        using T = decltype(zero);
        const auto x = [&](int i) { return numbers<T>(in[i]); };
        const ScanToken<T> token{E,    N,    x(0), x(1),          x(2),               x(3),         x(4),
                                 x(5), x(6), x(7), numbers<T>(h), numbers<T>(all[2]), numbers<T>(y)};
        return [=] { in_parallel(E, N, [&](int64_t begin, int64_t end) { token.run(begin, end); }); };
    });
}

}  // namespace
}  // namespace ttt

TORCH_LIBRARY_FRAGMENT(ttt_cpu, library) {
    using ttt::TokenSteps;
    library.class_<TokenSteps>("TokenSteps")
        .def(torch::init<>())
        .def("run", &TokenSteps::run)
        .def("settle", &TokenSteps::settle)
        .def("join", &TokenSteps::join)
        .def("embed", &TokenSteps::embed)
        .def("linear", &TokenSteps::linear)
        .def("add_to", &TokenSteps::add_to)
        .def("rms_norm", &TokenSteps::rms_norm)
        .def("layer_norm", &TokenSteps::layer_norm)
        .def("gate", &TokenSteps::gate)
        .def("silu", &TokenSteps::silu)
        .def("rate", &TokenSteps::rate)
        .def("convolve", &TokenSteps::convolve)
        .def("rotate", &TokenSteps::rotate)
        .def("inner", &TokenSteps::inner)
        .def("scan", &TokenSteps::scan);
}
