// What both passes of Mamba's selective scan share: tensors, sizes, buffers, and the steps from tensors to buffers.
//
// Shapes: B batch, T tokens, E channels, N state size; L lanes of a vector, W channels of a block.
#pragma once

#include <algorithm>

#include "memory.h"
#include "pointwise.h"
#include "softplus.h"

namespace ttt {

constexpr long SEGMENT = 64, GROUP = 64;  // tokens, channels
constexpr long KEPT_E = 32, KEPT_N = 4;   // kept states have E and N rounded up to these: whole blocks and strips

// A strip of S entries of the state of a block of K vectors of channels stays in registers while the tokens pass.
constexpr int BLOCK_VECTORS = 2;
template <class T>
constexpr int STRIP = std::max(1, std::min(LANES<T> / 2, VECTOR_REGISTERS / 8));

constexpr long round_up(long x, long multiple) { return (x + multiple - 1) / multiple * multiple; }

// A tensor [B, T, X] by its strides. Either tokens or the entries of X are adjacent.
template <class T>
struct Tokens {
    T* at = nullptr;
    long batch = 0, token = 0, entry = 0;

    T* of(long b, long t, long x) const { return at + b * batch + t * token + x * entry; }
    operator Tokens<const T>() const { return {at, batch, token, entry}; }
};

struct ScanSizes {
    long B, T, E, N;

    long segments() const { return (T + SEGMENT - 1) / SEGMENT; }
    long groups() const { return (E + GROUP - 1) / GROUP; }
    long kept_E() const { return round_up(E, KEPT_E); }
    long kept_N() const { return round_up(N, KEPT_N); }
};

template <class T>
struct ScanInputs {
    ScanSizes sizes;
    Tokens<const T> u, dt, B, C, z;
    const T *A, *D, *bias, *h;  // [E, N], [E] twice, [B, E, N]
};

// The buffers and steps of both passes, reused for all tasks of one thread.
template <class T>
class ChannelScan {
  protected:
    static constexpr int L = LANES<T>, S = STRIP<T>, K = BLOCK_VECTORS, W = K * L;
    static constexpr T LOG2_E = 1.44269504088896340736, LN_2 = 0.69314718055994530942;

    explicit ChannelScan(const ScanInputs<T>& in) : in(in), sizes(in.sizes), N(round_up(sizes.N, S)) {
        for (T** each : {&u, &delta, &x, &y, &z}) *each = arena.take(SEGMENT * W);
        for (T** each : {&B, &C}) *each = arena.take(SEGMENT * N);
        for (T** each : {&A, &h}) *each = arena.take(GROUP * N);
        for (T** each : {&D, &bias}) *each = arena.take(GROUP);
    }

    void enter_task(long task) {
        batch = task / sizes.groups(), group = task % sizes.groups();
        first = group * GROUP, channels = std::min(GROUP, sizes.E - first), blocks = (channels + W - 1) / W;
        read_states(in.A, 0, A);
        for (long i = 0; i < GROUP * N; i++) A[i] *= LOG2_E;
        for (auto [from, to] : {std::pair{in.D, D}, std::pair{in.bias, bias}}) {
            std::fill(std::copy(from + first, from + first + channels, to), to + GROUP, T(0));
        }
    }

    // Copies a group's [channels, N] of a tensor [*, E, N] to [blocks, N, W], with zeros beyond.
    void read_states(const T* from, long row, T* to) const {
        std::fill(to, to + GROUP * N, T(0));
        from += (row * sizes.E + first) * sizes.N;
        for (long e = 0; e < channels; e++) {
            for (long n = 0; n < sizes.N; n++) to[(e / W * N + n) * W + e % W] = from[e * sizes.N + n];
        }
    }

    void write_states(const T* from, T* to) const {
        to += (batch * sizes.E + first) * sizes.N;
        for (long e = 0; e < channels; e++) {
            for (long n = 0; n < sizes.N; n++) to[e * sizes.N + n] = from[(e / W * N + n) * W + e % W];
        }
    }

    void enter_segment(long segment) {
        begin = segment * SEGMENT, tokens = std::min(SEGMENT, sizes.T - begin);
        for (auto [from, to] : {std::pair{&in.B, B}, std::pair{&in.C, C}}) {
            for (long t = 0; t < tokens; t++, to += N) {
                const T* row = from->of(batch, begin + t, 0);
                std::fill(std::copy(row, row + sizes.N, to), to + N, T(0));
            }
        }
    }

    // Reads the block's tokens. Writes the derivative of softplus to `slope`, unless it is null.
    void enter_block(long number, T* slope = nullptr) {
        block = number;
        read_tile(in.u, u), read_tile(in.dt, delta), read_tile(in.z, z);
        each_vector([&](long i, long channel) {
            const Softplus<T> softplus(load(delta + i) + load(bias + channel));
            const Vector<T> step = softplus.value(), input = load(u + i);
            store<T>(delta + i, step), store<T>(x + i, step * input), store<T>(y + i, load(D + channel) * input);
            if (slope) store<T>(slope + i, softplus.first());
        });
    }

    // Remembers where the tile of a block of another segment is in the tensors, if there is one.
    template <class... Tensors>
    void look_ahead(long segment, long number, const Tensors&... tensors) {
        const bool exists = 0 <= segment && segment < sizes.segments();
        ahead = 0;
        for (const auto& tensor : {Tokens<const T>(tensors)...}) {
            if (!exists || tensor.entry != 1) continue;
            rows[ahead++] = {tensor.of(batch, segment * SEGMENT, first + number * W), tensor.token};
        }
    }

    // Fetches row t of the tile ahead into the second cache while the strip from entry n on passes. Rows are far apart,
    // so that no processor foresees them: without it a pass waits for memory half of the time.
    INLINE void fetch(long n, long t) const {
        for (long i = n / S; i < ahead; i += N / S) {
            const T* const row = rows[i].at + t * rows[i].stride;
            UNROLL for (int e = 0; e < W; e += 64 / sizeof(T)) __builtin_prefetch(row + e, 0, 2);
        }
    }

    // Calls work(i, channel) for each vector of a tile: its place there and its first channel's in the group.
    template <class Work>
    INLINE void each_vector(const Work& work) const {
        for (long t = 0; t < tokens; t++) {
            UNROLL for (int k = 0; k < K; k++) work(t * W + k * L, block * W + k * L);
        }
    }

    T* block_states(T* of_group) const { return of_group + block * N * W; }

    // Copies the block's channels of the segment to [tokens, W], with zeros for channels beyond the last.
    void read_tile(const Tokens<const T>& tensor, T* to) const {
        const long count = block_channels();
        const T* from = tensor.of(batch, begin, first + block * W);
        if (tensor.entry != 1 && tokens % L == 0) return transpose(from, tensor.entry, count, W, tokens, to, W);
        for (long t = 0; t < tokens; t++, from += tensor.token, to += W) {
            if (tensor.entry == 1 && count == W) {
                UNROLL for (int i = 0; i < W; i += L) store<T>(to + i, load(from + i));
            } else {
                for (long e = 0; e < W; e++) to[e] = e < count ? from[e * tensor.entry] : T(0);
            }
        }
    }

    void write_tile(const T* from, const Tokens<T>& tensor) const {
        const long count = block_channels();
        T* to = tensor.of(batch, begin, first + block * W);
        if (tensor.entry != 1 && tokens % L == 0) return transpose(from, W, tokens, tokens, count, to, tensor.entry);
        for (long t = 0; t < tokens; t++, from += W, to += tensor.token) {
            if (tensor.entry == 1 && count == W) {
                UNROLL for (int i = 0; i < W; i += L) store<T>(to + i, load(from + i));
            } else {
                for (long e = 0; e < count; e++) to[e * tensor.entry] = from[e];
            }
        }
    }

    // Returns the place of the block's state before the segment among the kept ones; its rows have kept_E numbers.
    long kept_offset() const {
        const long segment = batch * sizes.segments() + begin / SEGMENT;
        return segment * sizes.kept_N() * sizes.kept_E() + first + block * W;
    }

    const ScanInputs<T>& in;
    const ScanSizes sizes;
    const long N;  // rounded up to whole strips
    Arena<T> arena;
    long batch = 0, group = 0, first = 0, channels = 0, blocks = 0, begin = 0, tokens = 0, block = 0;
    T *u, *delta, *x, *y, *z, *B, *C;  // of a segment: [tokens, W] with x = delta u, and [tokens, N] twice
    T *A, *h, *D, *bias;               // of a group: [blocks, N, W] twice, with A / ln 2; [blocks, W] twice

  private:
    struct Strided {
        const T* at;
        long stride;
    };

    Strided rows[7];
    long ahead = 0;  // tensors

    long block_channels() const { return std::min<long>(W, channels - block * W); }
};

}  // namespace ttt
