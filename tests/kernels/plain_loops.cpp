// The CPU kernels compared with plain loops, without torch: outputs, last states and the gradients of all inputs.
//
// `make arm` compiles this file for ARM and runs it in an emulator. Gradients in float64 are compared with central
// differences of the plain loops, gradients in float32 with those in float64.
// Shapes: B batch, H heads, T tokens, D head width, F hidden width (0: TTT-Linear), b mini-batch size; of the scan E
// channels and N state size.
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "decode_inner.h"
#include "kernel.h"
#include "pointwise.h"
#include "selective_scan.h"

namespace {

using Numbers = std::vector<double>;
using Tensors = std::vector<Numbers>;

int compared = 0, failed = 0;
std::mt19937 generator(1);

// Numbers that float32 holds exactly, so that all types compute with the same inputs.
Numbers random(long count, double low, double high) {
    Numbers numbers(count);
    for (double& x : numbers) x = float(std::uniform_real_distribution<double>(low, high)(generator));
    return numbers;
}

template <class T>
std::vector<T> as(const Numbers& x) {
    return {x.begin(), x.end()};
}

double dot(const Numbers& x, const Numbers& y) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); i++) sum += x[i] * y[i];
    return sum;
}

double dot(const Tensors& x, const Tensors& y) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); i++) sum += dot(x[i], y[i]);
    return sum;
}

double largest(const Numbers& x) {
    double found = 0;
    for (double each : x) found = std::max(found, std::abs(each));
    return found;
}

void expect(const std::string& what, double error, double tolerance) {
    compared++;
    if (error <= tolerance) return;  // also false for NaN
    failed++;
    std::printf("%s: error %g, allowed are %g\n", what.c_str(), error, tolerance);
}

void expect_near(const std::string& what, const Tensors& found, const Tensors& right, double tolerance) {
    for (size_t i = 0; i < right.size(); i++) {
        double error = found[i].size() == right[i].size() ? 0 : INFINITY;
        for (size_t n = 0; n < right[i].size() && error < INFINITY; n++) {
            const double difference = std::abs(found[i][n] - right[i][n]);
            error = difference <= error ? error : std::isnan(difference) ? INFINITY : difference;
        }
        expect(what + ", tensor " + std::to_string(i), error, tolerance * (1 + largest(right[i])));
    }
}

using Function = std::function<Tensors(const Tensors&)>;

// Compares gradients of <f(x), upstream> with central differences along a random direction of each input.
void expect_gradients(
    const std::string& what, const Function& f, const Tensors& x, const Tensors& upstream, const Tensors& gradients
) {
    const double step = 1e-5;
    for (size_t i = 0; i < x.size(); i++) {
        if (largest(x[i]) == 0) continue;  // biases or a second layer that the inner model lacks
        const Numbers direction = random(x[i].size(), -1, 1);
        Tensors above = x, below = x;
        for (size_t n = 0; n < x[i].size(); n++) above[i][n] += step * direction[n], below[i][n] -= step * direction[n];
        const double difference = (dot(f(above), upstream) - dot(f(below), upstream)) / (2 * step);
        const double scale = std::sqrt(dot(gradients[i], gradients[i]) * dot(direction, direction)) + 1e-6;
        const double error = std::abs(dot(gradients[i], direction) - difference);
        expect(what + ", gradient " + std::to_string(i), error, 1e-6 * scale);
    }
}

// The inner loop ------------------------------------------------------------------------------------------------------

struct Case {
    int B, H, T, D, F, b;
    bool bias;

    int outputs() const { return F ? F : D; }
    std::string name() const {
        const std::string sizes = "D=" + std::to_string(D) + " F=" + std::to_string(F) + " b=" + std::to_string(b);
        return "inner loop " + sizes + (bias ? "" : " without biases");
    }
};

enum { W1, B1, W2, B2, SCALE, SHIFT, Q, K, V, ETA, TAU };  // the inputs; the outputs are z and W1 to B2

Tensors inputs_of(const Case& c) {
    const long pairs = c.B * c.H, O = c.outputs(), tokens = pairs * c.T;
    const double bias = c.bias ? 0.3 : 0;
    return {
        random(pairs * c.D * O, -0.2, 0.2), random(pairs * O, -bias, bias),
        random(pairs * c.F * c.D, -0.2, 0.2), random(c.F ? pairs * c.D : 0, -bias, bias),
        random(c.H * c.D, 0.5, 1.5), random(c.H * c.D, -0.5, 0.5),
        random(tokens * c.D, -1, 1), random(tokens * c.D, -1, 1), random(tokens * c.D, -1, 1),
        random(tokens, 0.01, 0.1), random(c.b, 0.3, 1),
    };
}

double gelu(double z) { return z / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z))); }

double gelu_slope(double z) {
    const double inner = std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z));
    return (1 + inner) / 2 + z / 2 * (1 - inner * inner) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * z * z);
}

// The inner model of one head with the weights of one token.
struct Model {
    Case c;
    Numbers W1, b1, W2, b2;

    static Numbers affine(const Numbers& x, const Numbers& W, const Numbers& bias) {
        Numbers z = bias;
        for (size_t i = 0; i < x.size(); i++) {
            for (size_t o = 0; o < z.size(); o++) z[o] += x[i] * W[i * z.size() + o];
        }
        return z;
    }

    Numbers hidden(const Numbers& x) const { return affine(x, W1, b1); }
    Numbers output(const Numbers& z_1) const {
        if (!c.F) return z_1;
        Numbers x_2 = z_1;
        for (double& x : x_2) x = gelu(x);
        return affine(x_2, W2, b2);
    }

    // this -= step * gradients
    void descend(double step, const Model& gradients) {
        const auto move = [&](Numbers& to, const Numbers& by) {
            for (size_t i = 0; i < to.size(); i++) to[i] -= step * by[i];
        };
        move(W1, gradients.W1), move(W2, gradients.W2);
        if (c.bias) move(b1, gradients.b1), move(b2, gradients.b2);
    }
};

// x becomes (x - mean) / deviation; returns 1 / deviation.
double standardise(Numbers& x) {
    double mean = 0, variance = 0;
    for (double each : x) mean += each / x.size();
    for (double each : x) variance += (each - mean) * (each - mean) / x.size();
    const double rstd = 1 / std::sqrt(variance + 1e-6);
    for (double& each : x) each = (each - mean) * rstd;
    return rstd;
}

// Adds eta times the gradient of 1/2 |k + LN(f(k)) - v|^2 at `model`.
void add_gradient(const Model& model, const double* scale, const double* shift, const Numbers& k, const double* v,
                  double eta, Model& sum) {
    const Case& c = model.c;
    const Numbers z_1 = model.hidden(k);
    Numbers unit = model.output(z_1), g(c.D), x_2 = z_1, g_1 = z_1;
    const double rstd = standardise(unit);
    double mean = 0, along = 0;
    for (int d = 0; d < c.D; d++) {
        g[d] = scale[d] * (k[d] + scale[d] * unit[d] + shift[d] - v[d]);
        mean += g[d] / c.D, along += g[d] * unit[d] / c.D;
    }
    for (int d = 0; d < c.D; d++) g[d] = eta * rstd * (g[d] - mean - unit[d] * along);
    if (!c.F) g_1 = g;
    for (int f = 0; f < c.F; f++) {
        x_2[f] = gelu(z_1[f]), g_1[f] = 0;
        for (int d = 0; d < c.D; d++) {
            g_1[f] += model.W2[f * c.D + d] * g[d] * gelu_slope(z_1[f]);
            sum.W2[f * c.D + d] += x_2[f] * g[d];
        }
    }
    for (int d = 0; d < c.D && c.F; d++) sum.b2[d] += g[d];
    for (size_t o = 0; o < g_1.size(); o++) {
        sum.b1[o] += g_1[o];
        for (int d = 0; d < c.D; d++) sum.W1[d * g_1.size() + o] += k[d] * g_1[o];
    }
}

// The definition, token by token.
Tensors plain_inner_loop(const Case& c, const Tensors& x) {
    const int D = c.D;
    Tensors out{Numbers(x[Q].size()), x[W1], x[B1], x[W2], x[B2]};
    for (int pair = 0; pair < c.B * c.H; pair++) {
        const auto part = [&](int i) {
            const long size = x[i].size() / (c.B * c.H);
            return Numbers(x[i].begin() + pair * size, x[i].begin() + (pair + 1) * size);
        };
        const double *scale = &x[SCALE][pair % c.H * D], *shift = &x[SHIFT][pair % c.H * D];
        Model start{c, part(W1), part(B1), part(W2), part(B2)}, now = start;
        for (int t = 0; t < c.T; t += c.b) {
            Model sum = start;
            sum.descend(1, start);
            for (Numbers* bias : {&sum.b1, &sum.b2}) std::fill(bias->begin(), bias->end(), 0);
            for (int i = 0; i < c.b; i++) {
                const long token = long(pair) * c.T + t + i;
                const auto row = [&](int tensor) { return x[tensor].begin() + token * D; };
                add_gradient(start, scale, shift, Numbers(row(K), row(K) + D), &x[V][token * D], x[ETA][token], sum);
                now = start;
                now.descend(x[TAU][i], sum);
                const Numbers q(row(Q), row(Q) + D);
                Numbers unit = now.output(now.hidden(q));
                standardise(unit);
                for (int d = 0; d < D; d++) out[0][token * D + d] = q[d] + scale[d] * unit[d] + shift[d];
            }
            start = now;
        }
        const Numbers* last[] = {&now.W1, &now.b1, &now.W2, &now.b2};
        for (int i = 0; i < 4; i++) {
            std::copy(last[i]->begin(), last[i]->end(), out[1 + i].begin() + pair * last[i]->size());
        }
    }
    return out;
}

// Sums the first axis.
Numbers sum_first(const Numbers& x, long size) {
    Numbers sum(size);
    for (size_t i = 0; i < x.size(); i++) sum[i % size] += x[i];
    return sum;
}

// Runs the kernel forward and backward. Returns the outputs and the gradients of the inputs.
template <class T>
std::pair<Tensors, Tensors> inner_loop(const Case& c, const Tensors& x, const Tensors& upstream) {
    std::vector<std::vector<T>> in, up, out, to;
    for (const Numbers& each : x) in.push_back(as<T>(each));
    for (const Numbers& each : upstream) up.push_back(as<T>(each)), out.emplace_back(each.size());
    const long D = c.D, pairs = c.B * c.H;
    for (int i = 0; i <= TAU; i++) {
        const bool summed = i == SCALE || i == SHIFT || i == TAU;  // the kernel gives one gradient per pair
        to.emplace_back(!summed ? x[i].size() : i == TAU ? pairs * c.b : pairs * D);
    }

    const auto heads = [&](auto* at, long width) {
        return ttt::Sequences<std::remove_pointer_t<decltype(at)>>{at, c.H * c.T * width, c.T * width, width};
    };
    const auto read = [&](int i) { return heads(static_cast<const T*>(in[i].data()), i == ETA ? 1 : D); };
    const auto weights = [&](auto* all) {  // W1, b1, W2, b2
        using Number = std::remove_pointer_t<decltype(all->data())>;
        ttt::Parameters<Number> parameters;
        for (int i = 0; i < 4; i++) {
            const long size = all[i].size() / pairs;
            parameters.tensors[i] = {all[i].data(), c.H * size, size, 0};
        }
        return parameters;
    };
    const ttt::Sizes sizes{c.D, c.F, c.b, c.H, c.T / c.b, 2, c.bias};
    std::vector<T> kept(pairs * sizes.groups() * sizes.state_numbers());
    const std::vector<T>*W = in.data(), *dW_last = up.data() + 1;
    const ttt::Inputs<T> inputs{sizes, weights(W), read(Q), read(K), read(V), read(ETA),
                                in[TAU].data(), in[SCALE].data(), in[SHIFT].data(), nullptr};
    const ttt::Forward<T> forward{inputs, heads(out[0].data(), D), weights(out.data() + 1), kept.data()};
    ttt::forward_pairs(forward, 0, pairs);
    const auto write = [&](int i) { return heads(to[i].data(), i == ETA ? 1 : D); };
    const ttt::Backward<T> backward{
        inputs, kept.data(), heads(static_cast<const T*>(up[0].data()), D), weights(dW_last),
        write(Q), write(K), write(V), write(ETA), weights(to.data()),
        to[TAU].data(), to[SCALE].data(), to[SHIFT].data(),
    };
    ttt::backward_pairs(backward, 0, pairs);
    Tensors outputs, gradients;
    for (const auto& each : out) outputs.emplace_back(each.begin(), each.end());
    for (const auto& each : to) gradients.emplace_back(each.begin(), each.end());
    gradients[SCALE] = sum_first(gradients[SCALE], c.H * D), gradients[SHIFT] = sum_first(gradients[SHIFT], c.H * D);
    gradients[TAU] = sum_first(gradients[TAU], c.b);
    return {outputs, gradients};
}

// Decodes token by token. After some tokens the pairs are moved to the sums.
template <class T>
Tensors decode(const Case& c, const Tensors& x) {
    std::vector<std::vector<T>> in, out{std::vector<T>(x[Q].size())};
    for (const Numbers& each : x) in.push_back(as<T>(each));
    for (int i = 0; i < 4; i++) out.push_back(in[i]);
    std::vector<std::vector<T>> sums(out.begin() + 1, out.end());
    const long D = c.D, heads = c.B * c.H, widths[] = {D, c.F, c.outputs(), c.F ? D : 0};
    std::vector<T> pairs[4], work(ttt::InnerToken<T>::space(D, c.F, c.b));
    for (int i = 0; i < 4; i++) pairs[i].resize(c.b * widths[i]);
    for (long h = 0; h < heads; h++) {
        ttt::HeadState<T> state{{}, {}, {pairs[0].data(), pairs[1].data()}, {pairs[2].data(), pairs[3].data()}};
        for (int i = 0; i < 4; i++) {
            const long own = h * long(sums[i].size() / heads);
            const bool absent = i % 2 && !c.bias;
            state.W[i] = absent ? nullptr : out[i + 1].data() + own, state.sum[i] = absent ? nullptr : &sums[i][own];
        }
        long kept = 0;
        for (long t = 0; t < c.T; t++) {
            const long token = h * c.T + t, at = token * D, i = t % c.b, norm = h % c.H * D;
            const ttt::HeadToken<T> given{&in[Q][at],      &in[K][at],   &in[V][at], &in[SCALE][norm], &in[SHIFT][norm],
                                          in[ETA][token],  in[TAU][i],   kept,       i > kept,         i + 1 == c.b,
                                          &out[0][at]};
            ttt::InnerToken<T>(D, c.F, state, given, c.b, work.data()).run();
            kept = given.ends ? 0 : kept + 1;
            if (t % 3 || !kept) continue;
            ttt::HeadToken<T> after = given;
            after.pairs = kept, after.carried = i + 1 > kept;
            ttt::InnerToken<T>(D, c.F, state, after, c.b, work.data()).settle();
            kept = 0;
        }
    }
    Tensors outputs;
    for (const auto& each : out) outputs.emplace_back(each.begin(), each.end());
    return outputs;
}

void check_inner_loop(const Case& c) {
    const Tensors x = inputs_of(c);
    const Function plain = [&](const Tensors& x) { return plain_inner_loop(c, x); };
    const Tensors right = plain(x);
    Tensors upstream;
    for (const Numbers& each : right) upstream.push_back(random(each.size(), -1, 1));
    for (int i : {B1, B2}) {
        if (!c.bias) std::fill(upstream[1 + i].begin(), upstream[1 + i].end(), 0);
    }
    const auto [outputs, gradients] = inner_loop<double>(c, x, upstream);
    expect_near(c.name() + " float64", outputs, right, 1e-11);
    expect_near(c.name() + " float64, decoded", decode<double>(c, x), right, 1e-11);
    expect_near(c.name() + " float32, decoded", decode<float>(c, x), right, 1e-5);
    expect_gradients(c.name() + " float64", plain, x, upstream, gradients);
    const auto [outputs_32, gradients_32] = inner_loop<float>(c, x, upstream);
    expect_near(c.name() + " float32", outputs_32, right, 1e-5);
    expect_near(c.name() + " float32, gradients", gradients_32, gradients, 1e-4);
}

// Mamba's scan --------------------------------------------------------------------------------------------------------

enum { U, DT, A, B, C, SKIP, GATE, STEP_BIAS, START };  // the inputs; the outputs are y and the last state

Tensors inputs_of(const ttt::ScanSizes& s) {
    const long channels = s.B * s.T * s.E, states = s.B * s.T * s.N;
    return {random(channels, -1, 1), random(channels, -4, 1), random(s.E * s.N, -2, -0.1), random(states, -1, 1),
            random(states, -1, 1), random(s.E, -1, 1), random(channels, -3, 3), random(s.E, -1, 1),
            random(s.B * s.E * s.N, -1, 1)};
}

Tensors plain_scan(const ttt::ScanSizes& s, const Tensors& x) {
    Tensors out{Numbers(x[U].size()), x[START]};
    for (long batch = 0; batch < s.B; batch++) {
        for (long t = 0; t < s.T; t++) {
            const long token = batch * s.T + t;
            for (long e = 0; e < s.E; e++) {
                const double u = x[U][token * s.E + e], gate = x[GATE][token * s.E + e];
                const double delta = std::log1p(std::exp(x[DT][token * s.E + e] + x[STEP_BIAS][e]));
                double& y = out[0][token * s.E + e];
                y = x[SKIP][e] * u;
                for (long n = 0; n < s.N; n++) {
                    double& h = out[1][(batch * s.E + e) * s.N + n];
                    h = std::exp(delta * x[A][e * s.N + n]) * h + delta * u * x[B][token * s.N + n];
                    y += x[C][token * s.N + n] * h;
                }
                y *= gate / (1 + std::exp(-gate));
            }
        }
    }
    return out;
}

template <class T>
std::pair<Tensors, Tensors> scan(const ttt::ScanSizes& s, const Tensors& x, const Tensors& upstream) {
    std::vector<std::vector<T>> in, up, out, to;
    for (const Numbers& each : x) in.push_back(as<T>(each));
    for (const Numbers& each : upstream) up.push_back(as<T>(each)), out.emplace_back(each.size());
    const long sizes[] = {s.B * s.T * s.E, s.B * s.T * s.E, s.B * s.E * s.N, s.groups() * s.B * s.T * s.N,
                          s.groups() * s.B * s.T * s.N, s.B * s.E, s.B * s.T * s.E, s.B * s.E, s.B * s.E * s.N};
    for (long size : sizes) to.emplace_back(size);
    const auto tokens = [&](auto* at, long width) {
        return ttt::Tokens<std::remove_pointer_t<decltype(at)>>{at, s.T * width, width, 1};
    };
    const auto read = [&](int i) { return tokens(static_cast<const T*>(in[i].data()), i == B || i == C ? s.N : s.E); };
    const ttt::ScanInputs<T> inputs{s, read(U), read(DT), read(B), read(C), read(GATE),
                                    in[A].data(), in[SKIP].data(), in[STEP_BIAS].data(), in[START].data()};
    std::vector<T> kept(s.B * s.segments() * s.kept_N() * s.kept_E());
    const ttt::ScanForward<T> forward{inputs, tokens(out[0].data(), s.E), out[1].data(), kept.data()};
    const ttt::ScanBackward<T> backward{
        inputs, kept.data(), tokens(static_cast<const T*>(up[0].data()), s.E), up[1].data(),
        tokens(to[U].data(), s.E), tokens(to[DT].data(), s.E), tokens(to[GATE].data(), s.E),
        to[A].data(), to[B].data(), to[C].data(), to[SKIP].data(), to[STEP_BIAS].data(), to[START].data(),
    };
    ttt::ScanForwardPass<T> forward_pass(forward);
    ttt::ScanBackwardPass<T> backward_pass(backward);
    for (long task = 0; task < s.B * s.groups(); task++) forward_pass.run(task);
    for (long task = 0; task < s.B * s.groups(); task++) backward_pass.run(task);
    Tensors outputs, gradients;
    for (const auto& each : out) outputs.emplace_back(each.begin(), each.end());
    for (size_t i = 0; i < to.size(); i++) gradients.push_back(sum_first({to[i].begin(), to[i].end()}, in[i].size()));
    return {outputs, gradients};
}

// Decodes token by token.
template <class T>
Tensors decode(const ttt::ScanSizes& s, const Tensors& x) {
    std::vector<std::vector<T>> in, out{std::vector<T>(x[U].size()), as<T>(x[START])};
    for (const Numbers& each : x) in.push_back(as<T>(each));
    std::vector<T> delta(s.E);
    for (long token = 0; token < s.B * s.T; token++) {
        const long e = token * s.E, n = token * s.N;
        const ttt::ScanToken<T> given{s.E, s.N, &in[U][e], &in[DT][e], in[STEP_BIAS].data(), in[A].data(), &in[B][n],
                                      &in[C][n], in[SKIP].data(), &in[GATE][e], &out[1][token / s.T * s.E * s.N],
                                      delta.data(), &out[0][e]};
        given.run(0, s.E);
    }
    return {{out[0].begin(), out[0].end()}, {out[1].begin(), out[1].end()}};
}

void check_scan(const ttt::ScanSizes& s) {
    const std::string sizes = "T=" + std::to_string(s.T) + " E=" + std::to_string(s.E) + " N=" + std::to_string(s.N);
    const std::string name = "scan " + sizes;
    const Tensors x = inputs_of(s);
    const Function plain = [&](const Tensors& x) { return plain_scan(s, x); };
    const Tensors right = plain(x), upstream{random(right[0].size(), -1, 1), random(right[1].size(), -1, 1)};
    const auto [outputs, gradients] = scan<double>(s, x, upstream);
    expect_near(name + " float64", outputs, right, 1e-12);
    expect_near(name + " float64, decoded", decode<double>(s, x), right, 1e-12);
    expect_near(name + " float32, decoded", decode<float>(s, x), right, 1e-5);
    expect_gradients(name + " float64", plain, x, upstream, gradients);
    const auto [outputs_32, gradients_32] = scan<float>(s, x, upstream);
    expect_near(name + " float32", outputs_32, right, 1e-5);
    expect_near(name + " float32, gradients", gradients_32, gradients, 1e-4);
}

// Norms and gates -----------------------------------------------------------------------------------------------------

constexpr double NORM_EPS = 1e-6;

struct Norms {
    long rows, C;

    // x and its gate, weight and bias.
    Tensors inputs() const {
        return {random(rows * C, -2, 2), random(rows * C, -9, 9), random(C, 0.5, 1.5), random(C, -0.5, 0.5)};
    }
};

// RMSNorm(x) * weight; GELU(gate) * LN(x); silu(gate) * x.
Tensors plain_norms(const Norms& s, const Tensors& in) {
    Tensors y(3, Numbers(s.rows * s.C));
    for (long row = 0; row < s.rows; row++) {
        const double *x = &in[0][row * s.C], *gate = &in[1][row * s.C];
        Numbers unit(x, x + s.C);
        standardise(unit);
        double squares = 0;
        for (long c = 0; c < s.C; c++) squares += x[c] * x[c] / s.C;
        for (long c = 0; c < s.C; c++) {
            const long n = row * s.C + c;
            y[0][n] = x[c] / std::sqrt(squares + NORM_EPS) * in[2][c];
            y[1][n] = gelu(gate[c]) * (unit[c] * in[2][c] + in[3][c]);
            y[2][n] = gate[c] / (1 + std::exp(-gate[c])) * x[c];
        }
    }
    return y;
}

// Computes the outputs of plain_norms, and the gradients of all inputs.
template <class T>
void run_norms(const Norms& s, const Tensors& in, const Tensors& upstream, Tensors& outputs, Tensors& gradients) {
    std::vector<std::vector<T>> x, dy, y(4, std::vector<T>(s.rows * s.C)), dx(6, std::vector<T>(s.rows * s.C));
    for (const Numbers& each : in) x.push_back(as<T>(each));
    for (const Numbers& each : upstream) dy.push_back(as<T>(each));
    std::vector<T> dweight(s.C), dbias(s.C);
    const ttt::Read<T> weight{x[2].data(), s.C}, bias{x[3].data(), s.C}, nothing{nullptr, 0};
    const ttt::Row<T> to_weight{dweight.data(), s.C}, to_bias{dbias.data(), s.C};
    for (long row = 0; row < s.rows; row++) {
        const auto read = [&](const std::vector<T>& from) { return ttt::Read<T>{from.data() + row * s.C, s.C}; };
        const auto write = [&](std::vector<T>& to) { return ttt::Row<T>{to.data() + row * s.C, s.C}; };
        const T eps = NORM_EPS;
        ttt::rms_norm<T>(read(x[0]), weight, eps, write(y[0]));
        ttt::gated_norm<T>(read(x[0]), read(x[1]), weight, bias, eps, write(y[1]));
        ttt::gated_product<T>(read(x[1]), read(x[0]), write(y[2]));
        ttt::rms_norm_backward<T>(read(dy[0]), nothing, read(x[0]), weight, eps, write(dx[0]), to_weight);
        ttt::gated_norm_backward<T>(
            read(dy[1]), read(x[0]), read(x[1]), weight, bias, eps, write(dx[1]), write(dx[2]), to_weight, to_bias
        );
        ttt::gated_product_backward<T>(
            read(dy[2]), read(x[1]), read(x[0]), write(dx[3]), write(dx[4]), write(y[3])
        );
    }
    outputs = {};
    for (const auto& each : y) outputs.emplace_back(each.begin(), each.end());
    gradients = {
        Numbers(s.rows * s.C), Numbers(s.rows * s.C), {dweight.begin(), dweight.end()}, {dbias.begin(), dbias.end()},
    };
    for (long n = 0; n < s.rows * s.C; n++) {
        gradients[0][n] = double(dx[0][n]) + dx[1][n] + dx[4][n], gradients[1][n] = double(dx[2][n]) + dx[3][n];
    }
}

void check_norms(const Norms& s) {
    const Tensors x = s.inputs(), upstream(3, random(s.rows * s.C, -1, 1));
    const auto plain = [&](const Tensors& in) { return plain_norms(s, in); };
    Tensors right = plain(x), outputs, gradients, outputs_32, gradients_32;
    right.push_back(right[2]);
    const std::string name = "norms and gates C=" + std::to_string(s.C);
    run_norms<double>(s, x, upstream, outputs, gradients);
    expect_near(name + " float64", outputs, right, 1e-12);
    expect_gradients(name + " float64", plain, x, upstream, gradients);
    run_norms<float>(s, x, upstream, outputs_32, gradients_32);
    expect_near(name + " float32", outputs_32, right, 1e-5);
    expect_near(name + " float32, gradients", gradients_32, gradients, 1e-4);
}

}  // namespace

int main() {
    for (const Case& c : {
             Case{2, 2, 20, 16, 0, 5, true}, Case{1, 2, 32, 32, 0, 16, true}, Case{1, 1, 34, 16, 0, 17, false},
             Case{2, 2, 20, 16, 32, 5, true}, Case{1, 1, 32, 32, 48, 16, true}, Case{1, 1, 3, 16, 64, 1, false},
         }) {
        check_inner_loop(c);
    }
    for (const ttt::ScanSizes& s : {
             ttt::ScanSizes{2, 70, 80, 16}, ttt::ScanSizes{1, 5, 3, 1}, ttt::ScanSizes{1, 130, 17, 9},
         }) {
        check_scan(s);
    }
    for (const Norms& s : {Norms{3, 64}, Norms{2, 43}, Norms{5, 7}}) check_norms(s);
    std::printf("%d comparisons with plain loops, %d bytes a vector: %d failed\n", compared, ttt::VECTOR_BYTES, failed);
    return failed != 0;
}
