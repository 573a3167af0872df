// The inner loop of one (sequence, head) pair over its mini-batches, forward and backward.
//
// The forward pass keeps W once per group of mini-batches. The backward pass runs through the groups from the last to
// the first: it recomputes the states and records of a group, then runs through its mini-batches in reverse.
// Shapes: D head width, b mini-batch size, N = b rounded up to 16. Matrices [D, N] have one token per lane.
#pragma once

#include <algorithm>

#include "inner_models.h"

namespace ttt {

// The buffers and steps of both passes, reused for all pairs that one thread computes. Model: Linear or MLP.
template <class T, class Model>
class Scan {
  protected:
    explicit Scan(const Inputs<T>& in)
        : in(in), sizes(in.sizes), positions(sizes, in.tau, arena), rotation(sizes, in.rotation, arena),
          model(sizes, positions, arena), q(sizes, arena) {
        for (T** each : {&target, &z_bar}) *each = take_DN();
        rstd = arena.take(positions.N);
    }

    T* take_DN() { return arena.take(long(sizes.D) * positions.N); }
    State<T> take_state() { return {sizes, arena.take(sizes.state_numbers())}; }

    void enter_pair(long pair) {
        batch = pair / sizes.H, head = pair % sizes.H;
        norm.scale = in.scale + head * sizes.D, norm.shift = in.shift + head * sizes.D;
    }

    // Computes the train view of the mini-batch at token t.
    void train(long t, const State<T>& W, typename Model::Record& record) {
        positions.enter(in.eta.of(batch, head), t);
        record.k.enter(in.k.of(batch, head), t, sizes.b, positions, rotation);
        const Sequences<const T> v = in.v.of(batch, head);
        prefetch(v[t + sizes.b], v.token, sizes.b, sizes.D);
        transpose(v[t], v.token, sizes.b, positions.N, sizes.D, target, positions.N);
        for (int n = 0; n < sizes.D * positions.N; n += LANES<T>) {
            store<T>(target + n, load(target + n) - load(record.k.lanes + n));
        }
        model.train(W, norm, target, record);
    }

    // Computes the test view: writes LN's standardised input to z_bar, its reciprocal standard deviation to rstd. The
    // next call is for token t + step.
    void test(long t, long step, const State<T>& W, const typename Model::Record& record) {
        q.enter(in.q.of(batch, head), t, step, positions, rotation);
        model.test(W, record, q, z_bar);
        standardise(sizes.D, positions.N, z_bar, rstd);
    }

    void write_rows(const T* lanes_DN, const Sequences<T>& to, long t) const {
        const Sequences<T> tokens = to.of(batch, head);
        transpose(lanes_DN, positions.N, sizes.D, sizes.D, sizes.b, tokens[t], tokens.token);
    }

    // Returns the offset of a group's W in the kept states.
    long kept_offset(long group) const {
        return ((batch * sizes.H + head) * sizes.groups() + group) * sizes.state_numbers();
    }

    const Inputs<T>& in;
    const Sizes sizes;
    Arena<T> arena;
    Positions<T> positions;
    const Rotation<T> rotation;
    Model model;
    View<T> q;
    long batch = 0, head = 0;
    Norm<T> norm{};
    T *target, *z_bar, *rstd;
};

template <class T, class Model>
class ForwardScan : Scan<T, Model> {
  public:
    explicit ForwardScan(const Forward<T>& call)
        : Scan<T, Model>(call.in), call(call), W(this->take_state()), record(this->sizes, this->arena) {}

    void run(long pair) {
        const Sizes& sizes = this->sizes;
        this->enter_pair(pair);
        W.read(call.in.W, this->batch, this->head);
        for (long m = 0; m < sizes.mini_batches; m++) {
            if (call.kept && m % sizes.group == 0) {
                T* const kept = call.kept + this->kept_offset(m / sizes.group);
                std::memcpy(kept, W.numbers, sizes.state_numbers() * sizeof(T));
            }
            this->train(m * sizes.b, W, record);
            this->test(m * sizes.b, sizes.b, W, record);
            write_z(m * sizes.b);
            this->model.update(W, record, W);
        }
        W.write(call.W_last, this->batch, this->head);
    }

  private:
    const Forward<T>& call;
    const State<T> W;
    typename Model::Record record;

    // z = q + LN(z_bar).
    void write_z(long t) {
        const int N = this->positions.N;
        for (int d = 0; d < this->sizes.D; d++) {
            const Vector<T> scale = all(this->norm.scale[d]), shift = all(this->norm.shift[d]);
            for (int n = d * N; n < (d + 1) * N; n += LANES<T>) {
                store<T>(this->z_bar + n, load(this->q.lanes + n) + scale * load(this->z_bar + n) + shift);
            }
        }
        this->write_rows(this->z_bar, call.z, t);
    }
};

template <class T, class Model>
class BackwardScan : Scan<T, Model> {
  public:
    explicit BackwardScan(const Backward<T>& call) : Scan<T, Model>(call.in), call(call), dW(this->take_state()) {
        for (T** each : {&to.q, &to.k, &to.target, &dz_bar, &this->norm.dscale, &this->norm.dshift}) {
            *each = this->take_DN();
        }
        for (long m = 0; m < std::min(this->sizes.group, this->sizes.mini_batches); m++) {
            states.push_back(this->take_state());
            records.emplace_back(this->sizes, this->arena);
        }
    }

    void run(long pair) {
        const Sizes& sizes = this->sizes;
        this->enter_pair(pair);
        dW.read(call.dW_last, this->batch, this->head);
        const int N = this->positions.N;
        for (T* each : {this->norm.dscale, this->norm.dshift}) std::memset(each, 0, sizeof(T) * sizes.D * N);
        std::memset(this->positions.dtau, 0, sizeof(T) * N);
        for (long group = sizes.groups() - 1; group >= 0; group--) {
            const long first = group * sizes.group, end = std::min(first + sizes.group, sizes.mini_batches);
            recompute(group, first, end);
            for (long m = end - 1; m >= first; m--) mini_batch(m * sizes.b, states[m - first], records[m - first]);
        }
        dW.write(call.dW, this->batch, this->head);
        write_shares(pair);
    }

  private:
    const Backward<T>& call;
    const State<T> dW;  // gradient of the state after the current mini-batch, then of the state before it
    std::vector<State<T>> states;  // of the group's mini-batches
    std::vector<typename Model::Record> records;
    InputGradients<T> to;
    T* dz_bar;

    void recompute(long group, long first, long end) {
        const T* const kept = call.kept + this->kept_offset(group);
        std::memcpy(states[0].numbers, kept, this->sizes.state_numbers() * sizeof(T));
        for (long m = first; m < end; m++) {
            const long i = m - first;
            this->train(m * this->sizes.b, states[i], records[i]);
            if (m + 1 < end) this->model.update(states[i], records[i], states[i + 1]);
        }
    }

    void mini_batch(long t, const State<T>& W, const typename Model::Record& record) {
        const int D = this->sizes.D, b = this->sizes.b, N = this->positions.N;
        this->positions.enter(this->in.eta.of(this->batch, this->head), t);
        this->test(t, -b, W, record);
        const Sequences<const T> dz = call.dz.of(this->batch, this->head);
        prefetch(dz[t - b], dz.token, b, D);
        transpose(dz[t], dz.token, b, N, D, to.q, N);  // z = q + LN(z_bar)
        std::memcpy(dz_bar, to.q, sizeof(T) * D * N);
        const Norm<T>& norm = this->norm;
        layer_norm_backward(D, N, norm.scale, this->z_bar, this->rstd, dz_bar, norm.dscale, norm.dshift);
        this->model.backward(W, dW, norm, record, this->q, dz_bar, to);
        this->positions.finish_gradients();
        for (int n = 0; n < D * N; n += LANES<T>) store<T>(to.k + n, load(to.k + n) - load(to.target + n));
        write_turned_back(to.q, call.dq, t);
        write_turned_back(to.k, call.dk, t);
        this->write_rows(to.target, call.dv, t);
        const Sequences<T> deta = call.deta.of(this->batch, this->head);
        for (int j = 0; j < b; j++) *deta[t + j] = this->positions.deta[j];
    }

    void write_turned_back(const T* lanes_DN, const Sequences<T>& to, long t) const {
        this->write_rows(lanes_DN, to, t);
        const Sequences<T> tokens = to.of(this->batch, this->head);
        if (this->rotation.is_given()) this->rotation.turn_back(tokens[t], tokens.token);
    }

    // Writes the pair's contributions to gradients that are summed over sequences or heads.
    void write_shares(long pair) const {
        const int D = this->sizes.D, b = this->sizes.b;
        std::memcpy(call.dtau + pair * b, this->positions.dtau, sizeof(T) * b);
        std::memset(call.dscale + pair * D, 0, sizeof(T) * D);
        std::memset(call.dshift + pair * D, 0, sizeof(T) * D);
        this->positions.add_tokens(D, this->norm.dscale, call.dscale + pair * D);
        this->positions.add_tokens(D, this->norm.dshift, call.dshift + pair * D);
    }
};

}  // namespace ttt
