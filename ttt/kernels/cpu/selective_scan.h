// Mamba's selective scan, forward and backward: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = C_t h_t + D u_t.
//
// Shapes: B batch, T tokens, E channels, N state size; L lanes of a vector. A vector has L neighbouring channels, a
// block, for one entry of the state; a strip of the state's entries stays in registers while the tokens pass. The
// forward pass keeps the state before each segment of tokens, from which the backward pass recomputes the segment.
// A task is one group of channels of one sequence. Groups do not depend on the number of threads, nor do sums.
#pragma once

#include <algorithm>

#include "memory.h"
#include "simd.h"

namespace ttt {

constexpr long SEGMENT = 64, GROUP = 64;  // tokens, channels
constexpr long KEPT_E = 16, KEPT_N = 8;   // kept states have E and N rounded up to these: whole blocks and strips

template <class T>
constexpr int STRIP = std::min(LANES<T>, VECTOR_REGISTERS / 4);

constexpr long round_up(long x, long multiple) { return (x + multiple - 1) / multiple * multiple; }

// A tensor [B, T, X] by its strides. Either tokens or the entries of X are adjacent.
template <class T>
struct Tokens {
    T* at = nullptr;
    long batch = 0, token = 0, entry = 0;

    T* of(long b, long t, long x) const { return at + b * batch + t * token + x * entry; }
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
    Tokens<const T> u, delta, B, C;
    const T *A, *D, *h;  // [E, N], [E], [B, E, N]
};

template <class T>
struct ScanForward {
    ScanInputs<T> in;
    Tokens<T> y;
    T *h_last, *kept;  // [B, E, N]; [B, segments, kept_N, kept_E], or null to keep nothing
};

template <class T>
struct ScanBackward {
    ScanInputs<T> in;
    const T* kept;
    Tokens<const T> dy;
    const T* dh_last;
    Tokens<T> du, ddelta;
    T *dA, *dB, *dC, *dD, *dh;  // [B, E, N], [groups, B, T, N] twice, [B, E], [B, E, N]
};

// The buffers and steps of both passes, reused for all tasks of one thread.
template <class T>
class ChannelScan {
  protected:
    static constexpr int L = LANES<T>, S = STRIP<T>;

    explicit ChannelScan(const ScanInputs<T>& in) : in(in), sizes(in.sizes), N(round_up(sizes.N, S)) {
        for (T** each : {&u, &delta, &x}) *each = arena.take(SEGMENT * L);
        for (T** each : {&B, &C}) *each = arena.take(SEGMENT * N);
        A = arena.take(GROUP * N), h = arena.take(GROUP * N), D = arena.take(GROUP);
    }

    void enter_task(long task) {
        batch = task / sizes.groups(), group = task % sizes.groups();
        first = group * GROUP, channels = std::min(GROUP, sizes.E - first), blocks = (channels + L - 1) / L;
        read_states(in.A, 0, A);
        std::fill(D, D + GROUP, T(0));
        std::copy(in.D + first, in.D + first + channels, D);
    }

    // Copies a group's [channels, N] of a tensor [*, E, N] to [blocks, N, L], with zeros beyond.
    void read_states(const T* from, long row, T* to) const {
        std::fill(to, to + GROUP * N, T(0));
        from += (row * sizes.E + first) * sizes.N;
        for (long e = 0; e < channels; e++) {
            for (long n = 0; n < sizes.N; n++) to[(e / L * N + n) * L + e % L] = from[e * sizes.N + n];
        }
    }

    void write_states(const T* from, T* to) const {
        to += (batch * sizes.E + first) * sizes.N;
        for (long e = 0; e < channels; e++) {
            for (long n = 0; n < sizes.N; n++) to[e * sizes.N + n] = from[(e / L * N + n) * L + e % L];
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

    void enter_block(long number) {
        block = number;
        read_tile(in.u, u), read_tile(in.delta, delta);
        for (long i = 0; i < tokens * L; i += L) store<T>(x + i, load(delta + i) * load(u + i));
    }

    long block_channels() const { return std::min<long>(L, channels - block * L); }
    T* block_states(T* of_group) const { return of_group + block * N * L; }

    // Copies the block's channels of the segment to [tokens, L], with zeros for channels beyond the last.
    void read_tile(const Tokens<const T>& tensor, T* to) const {
        const long count = block_channels();
        const T* from = tensor.of(batch, begin, first + block * L);
        if (tensor.entry != 1 && tokens % L == 0) return transpose(from, tensor.entry, count, L, tokens, to, L);
        for (long t = 0; t < tokens; t++, from += tensor.token, to += L) {
            if (tensor.entry == 1 && count == L) {
                store<T>(to, load(from));
            } else {
                for (long e = 0; e < L; e++) to[e] = e < count ? from[e * tensor.entry] : T(0);
            }
        }
    }

    void write_tile(const T* from, const Tokens<T>& tensor) const {
        const long count = block_channels();
        T* to = tensor.of(batch, begin, first + block * L);
        if (tensor.entry != 1 && tokens % L == 0) return transpose(from, L, tokens, tokens, count, to, tensor.entry);
        for (long t = 0; t < tokens; t++, from += L, to += tensor.token) {
            if (tensor.entry == 1 && count == L) {
                store<T>(to, load(from));
            } else {
                for (long e = 0; e < count; e++) to[e * tensor.entry] = from[e];
            }
        }
    }

    // Returns the place of the block's state before the segment among the kept ones; its rows have kept_E numbers.
    long kept_offset() const {
        const long segment = batch * sizes.segments() + begin / SEGMENT;
        return segment * sizes.kept_N() * sizes.kept_E() + first + block * L;
    }

    const ScanInputs<T>& in;
    const ScanSizes sizes;
    const long N;  // rounded up to whole strips
    Arena<T> arena;
    long batch = 0, group = 0, first = 0, channels = 0, blocks = 0, begin = 0, tokens = 0, block = 0;
    T *u, *delta, *x, *B, *C;  // of a segment: [tokens, L] with x = delta u, and [tokens, N]
    T *A, *h, *D;              // of a group: [blocks, N, L] twice, [blocks, L]
};

template <class T>
class ScanForwardPass : ChannelScan<T> {
  public:
    explicit ScanForwardPass(const ScanForward<T>& call)
        : ChannelScan<T>(call.in), call(call), y(this->arena.take(SEGMENT * L)) {}

    void run(long task) {
        this->enter_task(task);
        this->read_states(this->in.h, this->batch, this->h);
        for (long segment = 0; segment < this->sizes.segments(); segment++) {
            this->enter_segment(segment);
            for (long block = 0; block < this->blocks; block++) run_block(block);
        }
        this->write_states(this->h, call.h_last);
    }

  private:
    static constexpr int L = LANES<T>, S = STRIP<T>;

    void run_block(long block) {
        this->enter_block(block);
        T* h = this->block_states(this->h);
        if (call.kept) {
            T* to = call.kept + this->kept_offset();
            for (long n = 0; n < this->N; n++, to += this->sizes.kept_E()) store<T>(to, load(h + n * L));
        }
        const Vector<T> D = load(this->D + block * L);
        for (long i = 0; i < this->tokens * L; i += L) store<T>(y + i, D * load(this->u + i));
        for (long n = 0; n < this->N; n += S) run_strip(n, h + n * L);
        this->write_tile(y, call.y);
    }

    // Lets the strip of the state that begins at entry n pass the segment.
    void run_strip(long n, T* h_strip) {
        const T* A_strip = this->block_states(this->A) + n * L;
        Vector<T> A[S], h[S];
        UNROLL for (int i = 0; i < S; i++) A[i] = load(A_strip + i * L), h[i] = load(h_strip + i * L);
        for (long t = 0; t < this->tokens; t++) {
            const T *B = this->B + t * this->N + n, *C = this->C + t * this->N + n;
            const Vector<T> delta = load(this->delta + t * L), x = load(this->x + t * L);
            Vector<T> sum = load(y + t * L);
            UNROLL for (int i = 0; i < S; i++) {
                h[i] = exp_of_negative(delta * A[i]) * h[i] + x * B[i];
                sum += h[i] * C[i];
            }
            store<T>(y + t * L, sum);
        }
        UNROLL for (int i = 0; i < S; i++) store<T>(h_strip + i * L, h[i]);
    }

    const ScanForward<T>& call;
    T* y;  // [tokens, L] of a segment
};

// g_t, the total gradient of h_t, is C_t dy_t + exp(delta_{t+1} A) g_{t+1}.
template <class T>
class ScanBackwardPass : ChannelScan<T> {
  public:
    explicit ScanBackwardPass(const ScanBackward<T>& call) : ChannelScan<T>(call.in), call(call) {
        for (T** each : {&dy, &gB, &exponent}) *each = this->arena.take(SEGMENT * L);
        for (T** each : {&dB, &dC}) *each = this->arena.take(SEGMENT * this->N);
        dA = this->arena.take(GROUP * this->N), dD = this->arena.take(GROUP);
        decays = this->arena.take(SEGMENT * S * L), states = this->arena.take((SEGMENT + 1) * S * L);
    }

    void run(long task) {
        this->enter_task(task);
        T* const g = this->h;  // exp(delta A) g of the token after the segment
        this->read_states(call.dh_last, this->batch, g);
        std::fill(dA, dA + GROUP * this->N, T(0)), std::fill(dD, dD + GROUP, T(0));
        for (long segment = this->sizes.segments() - 1; segment >= 0; segment--) {
            this->enter_segment(segment);
            for (T* sum : {dB, dC}) std::fill(sum, sum + this->tokens * this->N, T(0));
            for (long block = 0; block < this->blocks; block++) run_block(block);
            write_sums(dB, call.dB), write_sums(dC, call.dC);
        }
        this->write_states(g, call.dh), this->write_states(dA, call.dA);
        std::copy(dD, dD + this->channels, call.dD + this->batch * this->sizes.E + this->first);
    }

  private:
    static constexpr int L = LANES<T>, S = STRIP<T>;

    void run_block(long block) {
        this->enter_block(block);
        this->read_tile(call.dy, dy);
        for (T* sum : {gB, exponent}) std::fill(sum, sum + this->tokens * L, T(0));
        for (long n = 0; n < this->N; n += S) recompute_strip(n), run_strip(n);
        const Vector<T> D = load(this->D + block * L);
        Vector<T> dD_block = load(dD + block * L);
        for (long i = 0; i < this->tokens * L; i += L) {
            const Vector<T> dy_t = load(dy + i), u = load(this->u + i), gB_t = load(gB + i);
            dD_block += u * dy_t;
            store<T>(gB + i, load(this->delta + i) * gB_t + D * dy_t);
            store<T>(exponent + i, u * gB_t + load(exponent + i));
        }
        store<T>(dD + block * L, dD_block);
        this->write_tile(gB, call.du), this->write_tile(exponent, call.ddelta);
    }

    // Computes the decays and states of the strip that begins at entry n; states[0] is the one before the segment.
    void recompute_strip(long n) {
        const long kept_E = this->sizes.kept_E();
        const T *A_strip = this->block_states(this->A) + n * L, *kept = call.kept + this->kept_offset() + n * kept_E;
        Vector<T> A[S], h[S];
        UNROLL for (int i = 0; i < S; i++) {
            A[i] = load(A_strip + i * L), h[i] = load(kept + i * kept_E);
            store<T>(states + i * L, h[i]);
        }
        for (long t = 0; t < this->tokens; t++) {
            const T* B = this->B + t * this->N + n;
            const Vector<T> delta = load(this->delta + t * L), x = load(this->x + t * L);
            T *decay = decays + t * S * L, *state = states + (t + 1) * S * L;
            UNROLL for (int i = 0; i < S; i++) {
                const Vector<T> a = exp_of_negative(delta * A[i]);
                h[i] = a * h[i] + x * B[i];
                store<T>(decay + i * L, a), store<T>(state + i * L, h[i]);
            }
        }
    }

    // Lets the gradient of the strip pass the segment from its last token to its first.
    void run_strip(long n) {
        const T* A = this->block_states(this->A) + n * L;
        T *g_strip = this->block_states(this->h) + n * L, *dA_strip = this->block_states(dA) + n * L;
        Vector<T> g[S], dA[S];
        UNROLL for (int i = 0; i < S; i++) g[i] = load(g_strip + i * L), dA[i] = load(dA_strip + i * L);
        for (long t = this->tokens - 1; t >= 0; t--) {
            const T *B = this->B + t * this->N + n, *C = this->C + t * this->N + n;
            const T *decay = decays + t * S * L, *before = states + t * S * L, *after = before + S * L;
            const Vector<T> dy_t = load(dy + t * L), delta = load(this->delta + t * L), x = load(this->x + t * L);
            Vector<T> gB_t = load(gB + t * L), exponent_t = load(exponent + t * L), dB_t[S], dC_t[S];
            UNROLL for (int i = 0; i < S; i++) {
                dC_t[i] = load(after + i * L) * dy_t;
                g[i] += dy_t * C[i];
                dB_t[i] = g[i] * x;
                gB_t += g[i] * B[i];
                g[i] *= load(decay + i * L);
                const Vector<T> d_exponent = g[i] * load(before + i * L);
                dA[i] += d_exponent * delta;
                exponent_t += d_exponent * load(A + i * L);
            }
            store<T>(gB + t * L, gB_t), store<T>(exponent + t * L, exponent_t);
            add_sums(dB_t, dB + t * this->N + n), add_sums(dC_t, dC + t * this->N + n);
        }
        UNROLL for (int i = 0; i < S; i++) store<T>(g_strip + i * L, g[i]), store<T>(dA_strip + i * L, dA[i]);
    }

    // Adds the sum of each of S vectors' lanes.
    static INLINE void add_sums(Vector<T> (&vectors)[S], T* to) {
        const Vector<T> sums = sums_of_lanes<T, S>(vectors);
        UNROLL for (int i = 0; i < S; i++) to[i] += sums[i];
    }

    void write_sums(const T* from, T* to) const {
        to += ((this->group * this->sizes.B + this->batch) * this->sizes.T + this->begin) * this->sizes.N;
        for (long t = 0; t < this->tokens; t++, from += this->N, to += this->sizes.N) {
            std::copy(from, from + this->sizes.N, to);
        }
    }

    const ScanBackward<T>& call;
    T *dy, *gB, *exponent, *dB, *dC;  // of a segment: [tokens, L] thrice, [tokens, N] twice
    T *dA, *dD;                       // of a group: [blocks, N, L], [blocks, L]
    T *decays, *states;               // of a segment and strip: [tokens, S, L], [tokens + 1, S, L]
};

}  // namespace ttt
