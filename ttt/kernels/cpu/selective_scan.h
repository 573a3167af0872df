// Mamba's selective scan, forward and backward, with the softplus before it and the gate after it:
// delta_t = softplus(dt_t + bias), h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = C_t h_t + D u_t and
// out_t = y_t silu(z_t).
//
// Shapes: B batch, T tokens, E channels, N state size; L lanes of a vector. A block is K vectors of neighbouring
// channels, W in all; a strip of S entries of its state stays in registers while the tokens pass. The forward pass
// keeps the state before each segment of tokens, from which the backward pass recomputes the segment. A task is one
// group of channels of one sequence. Groups do not depend on the number of threads, nor do sums.
#pragma once

#include "channel_scan.h"

namespace ttt {

template <class T>
struct ScanForward {
    ScanInputs<T> in;
    Tokens<T> out;
    T *h_last, *kept;  // [B, E, N]; [B, segments, kept_N, kept_E], or null to keep nothing
};

template <class T>
struct ScanBackward {
    ScanInputs<T> in;
    const T* kept;
    Tokens<const T> dout;
    const T* dh_last;
    Tokens<T> du, ddt, dz;
    T *dA, *dB, *dC, *dD, *dbias, *dh;  // [B, E, N], [groups, B, T, N] twice, [B, E] twice, [B, E, N]
};

template <class T>
class ScanForwardPass : ChannelScan<T> {
  public:
    explicit ScanForwardPass(const ScanForward<T>& call) : ChannelScan<T>(call.in), call(call) {}

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
    using Base = ChannelScan<T>;
    using Base::K, Base::L, Base::S, Base::W;

    void run_block(long block) {
        this->enter_block(block);
        const bool last = block + 1 == this->blocks;
        this->look_ahead(
            this->begin / SEGMENT + last, last ? 0 : block + 1, this->in.u, this->in.dt, this->in.z, call.out
        );
        T* h = this->block_states(this->h);
        if (call.kept) {
            T* to = call.kept + this->kept_offset();
            for (long n = 0; n < this->N; n++, to += this->sizes.kept_E()) std::copy_n(h + n * W, W, to);
        }
        for (long n = 0; n < this->N; n += S) run_strip(n, h + n * W);
        this->each_vector([&](long i, long) {
            store<T>(this->y + i, load(this->y + i) * Silu<T>(load(this->z + i)).value);
        });
        this->write_tile(this->y, call.out);
    }

    // Lets the strip of the state that begins at entry n pass the segment.
    void run_strip(long n, T* h_strip) {
        const T* A_strip = this->block_states(this->A) + n * W;
        Vector<T> A[S * K], h[S * K];
        UNROLL for (int i = 0; i < S * K; i++) A[i] = load(A_strip + i * L), h[i] = load(h_strip + i * L);
        for (long t = 0; t < this->tokens; t++) {
            this->fetch(n, t);
            const T *B = this->B + t * this->N + n, *C = this->C + t * this->N + n;
            UNROLL for (int k = 0; k < K; k++) {
                const long at = t * W + k * L;
                const Vector<T> delta = load(this->delta + at), x = load(this->x + at);
                Vector<T> sum = load(this->y + at);
                UNROLL for (int s = 0; s < S; s++) {
                    const int i = s * K + k;
                    h[i] = exp2_of_negative(delta * A[i]) * h[i] + x * B[s];
                    sum += h[i] * C[s];
                }
                store<T>(this->y + at, sum);
            }
        }
        UNROLL for (int i = 0; i < S * K; i++) store<T>(h_strip + i * L, h[i]);
    }

    const ScanForward<T>& call;
};

// g_t, the total gradient of h_t, is C_t dy_t + exp(delta_{t+1} A) g_{t+1}.
template <class T>
class ScanBackwardPass : ChannelScan<T> {
  public:
    explicit ScanBackwardPass(const ScanBackward<T>& call) : ChannelScan<T>(call.in), call(call) {
        for (T** each : {&dy, &gB, &exponent, &slope}) *each = this->arena.take(SEGMENT * W);
        sums = this->arena.take(SEGMENT * this->N / S * L);
        dA = this->arena.take(GROUP * this->N), dD = this->arena.take(GROUP), dbias = this->arena.take(GROUP);
        decays = this->arena.take(SEGMENT * S * W), states = this->arena.take((SEGMENT + 1) * S * W);
    }

    void run(long task) {
        this->enter_task(task);
        T* const g = this->h;  // exp(delta A) g of the token after the segment
        this->read_states(call.dh_last, this->batch, g);
        std::fill(dA, dA + GROUP * this->N, T(0));
        for (T* sum : {dD, dbias}) std::fill(sum, sum + GROUP, T(0));
        for (long segment = this->sizes.segments() - 1; segment >= 0; segment--) {
            this->enter_segment(segment);
            std::fill(sums, sums + SEGMENT * this->N / S * L, T(0));
            for (long block = 0; block < this->blocks; block++) run_block(block);
            write_sums();
        }
        this->write_states(g, call.dh), this->write_states(dA, call.dA);
        const long place = this->batch * this->sizes.E + this->first;
        std::copy_n(dD, this->channels, call.dD + place), std::copy_n(dbias, this->channels, call.dbias + place);
    }

  private:
    using Base = ChannelScan<T>;
    using Base::K, Base::L, Base::S, Base::W;

    void run_block(long block) {
        this->enter_block(block, slope);
        const bool last = block + 1 == this->blocks;
        this->look_ahead(
            this->begin / SEGMENT - last, last ? 0 : block + 1, this->in.u, this->in.dt, this->in.z, call.dout, call.du,
            call.ddt, call.dz
        );
        this->read_tile(call.dout, dy);
        this->each_vector([&](long i, long) {
            const Silu<T> gate(load(this->z + i));
            const Vector<T> dout = load(dy + i);
            store<T>(dy + i, dout * gate.value), store<T>(this->z + i, dout * gate.first);
            store<T>(gB + i, Vector<T>{}), store<T>(exponent + i, Vector<T>{});
        });
        for (long n = 0; n < this->N; n += S) recompute_strip(n), run_strip(n);
        this->each_vector([&](long i, long channel) {
            const Vector<T> dy_t = load(dy + i), u = load(this->u + i), gB_t = load(gB + i);
            const Vector<T> ddt = (u * gB_t + Base::LN_2 * load(exponent + i)) * load(slope + i);
            store<T>(dD + channel, load(dD + channel) + u * dy_t);
            store<T>(dbias + channel, load(dbias + channel) + ddt);
            store<T>(gB + i, load(this->delta + i) * gB_t + load(this->D + channel) * dy_t);
            store<T>(exponent + i, ddt);
            store<T>(this->z + i, load(this->z + i) * load(this->y + i));
        });
        this->write_tile(gB, call.du), this->write_tile(exponent, call.ddt), this->write_tile(this->z, call.dz);
    }

    // Computes the decays and states of the strip that begins at entry n; states[0] is the one before the segment.
    void recompute_strip(long n) {
        const long kept_E = this->sizes.kept_E();
        const T *A_strip = this->block_states(this->A) + n * W, *kept = call.kept + this->kept_offset() + n * kept_E;
        Vector<T> A[S * K], h[S * K];
        UNROLL for (int i = 0; i < S * K; i++) {
            A[i] = load(A_strip + i * L), h[i] = load(kept + i / K * kept_E + i % K * L);
            store<T>(states + i * L, h[i]);
        }
        for (long t = 0; t < this->tokens; t++) {
            const T *B = this->B + t * this->N + n, *C = this->C + t * this->N + n;
            T *decay = decays + t * S * W, *state = states + (t + 1) * S * W;
            UNROLL for (int k = 0; k < K; k++) {
                const long at = t * W + k * L;
                const Vector<T> delta = load(this->delta + at), x = load(this->x + at);
                Vector<T> sum = load(this->y + at);
                UNROLL for (int s = 0; s < S; s++) {
                    const int i = s * K + k;
                    const Vector<T> a = exp2_of_negative(delta * A[i]);
                    h[i] = a * h[i] + x * B[s];
                    sum += h[i] * C[s];
                    store<T>(decay + i * L, a), store<T>(state + i * L, h[i]);
                }
                store<T>(this->y + at, sum);
            }
        }
    }

    // Lets the gradient of the strip pass the segment from its last token to its first.
    void run_strip(long n) {
        const T* A = this->block_states(this->A) + n * W;
        T *g_strip = this->block_states(this->h) + n * W, *dA_strip = this->block_states(dA) + n * W;
        Vector<T> g[S * K], dA[S * K];
        UNROLL for (int i = 0; i < S * K; i++) g[i] = load(g_strip + i * L), dA[i] = load(dA_strip + i * L);
        for (long t = this->tokens - 1; t >= 0; t--) {
            this->fetch(n, t);
            const T *B = this->B + t * this->N + n, *C = this->C + t * this->N + n;
            const T *decay = decays + t * S * W, *before = states + t * S * W, *after = before + S * W;
            Vector<T> of_B_and_C[2 * S] = {};
            UNROLL for (int k = 0; k < K; k++) {
                const long at = t * W + k * L;
                const Vector<T> dy_t = load(dy + at), delta = load(this->delta + at), x = load(this->x + at);
                Vector<T> gB_t = load(gB + at), exponent_t = load(exponent + at);
                UNROLL for (int s = 0; s < S; s++) {
                    const int i = s * K + k;
                    of_B_and_C[S + s] += load(after + i * L) * dy_t;
                    g[i] += dy_t * C[s];
                    of_B_and_C[s] += g[i] * x;
                    gB_t += g[i] * B[s];
                    g[i] *= load(decay + i * L);
                    const Vector<T> d_exponent = g[i] * load(before + i * L);
                    dA[i] += d_exponent * delta;
                    exponent_t += d_exponent * load(A + i * L);
                }
                store<T>(gB + at, gB_t), store<T>(exponent + at, exponent_t);
            }
            T* const sum = sums + (n / S * SEGMENT + t) * L;
            store<T>(sum, load(sum) + merged_lanes<T, 2 * S>(of_B_and_C));
        }
        UNROLL for (int i = 0; i < S * K; i++) store<T>(g_strip + i * L, g[i]), store<T>(dA_strip + i * L, dA[i]);
    }

    // Adds the lanes that belong together and writes the gradients of B and C.
    void write_sums() const {
        const long row = (this->group * this->sizes.B + this->batch) * this->sizes.T + this->begin;
        for (long n = 0; n < this->sizes.N; n++) {
            const T* from = sums + n / S * SEGMENT * L + n % S;
            for (long t = 0; t < this->tokens; t++, from += L) {
                T dB = 0, dC = 0;
                UNROLL for (int i = 0; i < L; i += 2 * S) dB += from[i], dC += from[S + i];
                const long place = (row + t) * this->sizes.N + n;
                call.dB[place] = dB, call.dC[place] = dC;
            }
        }
    }

    const ScanBackward<T>& call;
    T *dy, *gB, *exponent, *slope, *sums;  // of a segment: [tokens, W] four times, [N / S, tokens, L]
    T *dA, *dD, *dbias;                    // of a group: [blocks, N, W], [blocks, W] twice
    T *decays, *states;                    // of a segment and strip: [tokens, S, W], [tokens + 1, S, W]
};

}  // namespace ttt
