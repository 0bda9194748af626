// The scans of cells whose steps are written out here: forward from the gates to the states, backward from the loss's
// gradient by the states to all that gradient and sensitivities need. native_scans.h has those of any other cell.
//
// A cell is a class that is made for one unit in one step, and says
//
//     gates, own, parts      K, L and the numbers of a unit's state, as in cells/base.py
//     own_arrays             how many parameters, each [L / own_arrays, N], the L own numbers are
//     numbers, prepare       what its steps read of a unit beside its gates, made of its own parameters once a call
//     state                  c_t, [parts]
//     pull                   from a gradient by c_t, [parts], those by the gates, the own parameters and c_{t-1}

#pragma once

#include "native_blocks.h"
#include "native_math.h"

namespace {

template <class Real>
struct ELSTM {
    static constexpr int gates = 2, own = 2, own_arrays = 1, parts = 1, numbers = 2;
    const Real c, f, z, keep, w0, w1;

    static void prepare(const Real* given, Real* numbers, Size units) { std::copy_n(given, 2 * units, numbers); }
    ELSTM(const Real* p, const Real* w, const Real* previous)
        : c(previous[0]), f(sigmoid(p[0] + w[0] * c)), z(hyperbolic_tangent(p[1] + w[1] * c)), keep(Real(1) - f),
          w0(w[0]), w1(w[1]) {}
    void state(Real* out) const { out[0] = f * c + keep * z; }
    void pull(const Real* d, Real* by_gates, Real* by_own, Real* by_previous) const {
        const Real u0 = (c - z) * f * keep, u1 = keep * (Real(1) - z * z);
        by_gates[0] = d[0] * u0;
        by_gates[1] = d[0] * u1;
        by_own[0] = by_gates[0] * c;
        by_own[1] = by_gates[1] * c;
        by_previous[0] = (f + w1 * u1 + w0 * u0) * d[0];
    }
};

template <class Real>
struct MinGRU {
    static constexpr int gates = 2, own = 0, own_arrays = 0, parts = 1, numbers = 0;
    const Real c, z, keep, candidate;

    static void prepare(const Real*, Real*, Size) {}
    MinGRU(const Real* p, const Real*, const Real* previous)
        : c(previous[0]), z(sigmoid(p[0])), keep(Real(1) - z), candidate(p[1]) {}
    void state(Real* out) const { out[0] = keep * c + z * candidate; }
    void pull(const Real* d, Real* by_gates, Real*, Real* by_previous) const {
        by_gates[0] = d[0] * ((candidate - c) * z * keep);
        by_gates[1] = d[0] * z;
        by_previous[0] = keep * d[0];
    }
};

// A pair as a complex number, times (re + i im).
template <class Real>
struct Turned {
    const Real re, im, first, second;
    Turned(Real re, Real im, const Real* c)
        : re(re), im(im), first(re * c[0] - im * c[1]), second(im * c[0] + re * c[1]) {}
    // From a gradient by the product: that by the angle, and those by c.
    Real by_angle(const Real* d) const { return first * d[1] - second * d[0]; }
    Real by_first(const Real* d) const { return re * d[0] + im * d[1]; }
    Real by_second(const Real* d) const { return re * d[1] - im * d[0]; }
};

template <class Real>
struct LRU {
    static constexpr int gates = 2, own = 3, own_arrays = 3, parts = 2, numbers = 4;
    const Real p0, p1, rate, gain;
    const Turned<Real> turned;

    static void prepare(const Real* given, Real* numbers, Size units) {
        for (Size i = 0; i < units; ++i) {
            const Real rate = std::exp(given[i]), radius = std::exp(-rate), angle = given[units + i];
            numbers[i] = radius * std::cos(angle);
            numbers[units + i] = radius * std::sin(angle);
            numbers[2 * units + i] = rate;
            numbers[3 * units + i] = std::exp(given[2 * units + i]);
        }
    }
    LRU(const Real* p, const Real* w, const Real* previous)
        : p0(p[0]), p1(p[1]), rate(w[2]), gain(w[3]), turned(w[0], w[1], previous) {}
    void state(Real* out) const {
        out[0] = turned.first + gain * p0;
        out[1] = turned.second + gain * p1;
    }
    void pull(const Real* d, Real* by_gates, Real* by_own, Real* by_previous) const {
        by_gates[0] = gain * d[0];
        by_gates[1] = gain * d[1];
        by_own[0] = -rate * (turned.first * d[0] + turned.second * d[1]);
        by_own[1] = turned.by_angle(d);
        by_own[2] = p0 * by_gates[0] + p1 * by_gates[1];
        by_previous[0] = turned.by_first(d);
        by_previous[1] = turned.by_second(d);
    }
};

template <class Real>
struct Rotation {
    static constexpr int gates = 3, own = 1, own_arrays = 1, parts = 2, numbers = 2;
    const Real z, keep, p1, p2;
    const Turned<Real> turned;

    static void prepare(const Real* given, Real* numbers, Size units) {
        for (Size i = 0; i < units; ++i) {
            numbers[i] = std::cos(given[i]);
            numbers[units + i] = std::sin(given[i]);
        }
    }
    Rotation(const Real* p, const Real* w, const Real* previous)
        : z(sigmoid(p[0])), keep(Real(1) - z), p1(p[1]), p2(p[2]), turned(w[0], w[1], previous) {}
    void state(Real* out) const {
        out[0] = keep * turned.first + z * p1;
        out[1] = keep * turned.second + z * p2;
    }
    void pull(const Real* d, Real* by_gates, Real* by_own, Real* by_previous) const {
        by_gates[0] = ((p1 - turned.first) * d[0] + (p2 - turned.second) * d[1]) * (z * keep);
        by_gates[1] = z * d[0];
        by_gates[2] = z * d[1];
        by_own[0] = keep * turned.by_angle(d);
        by_previous[0] = keep * turned.by_first(d);
        by_previous[1] = keep * turned.by_second(d);
    }
};

// What the steps of a block read at unit i of it.
template <class Real, template <class> class Cell>
struct Rows {
    using Made = Cell<Real>;
    const Real *projection, *bias, *numbers, *previous;
    Size units, part;  // from one number of the previous state to the other: 0 where both are zero

    Made at(Size i) const {
        Real p[Made::gates], w[Made::numbers + 1], c[Made::parts];
        for (int k = 0; k < Made::gates; ++k) p[k] = projection[k * units + i] + bias[k * units + i];
        for (int l = 0; l < Made::numbers; ++l) w[l] = numbers[l * units + i];
        for (int q = 0; q < Made::parts; ++q) c[q] = previous[q * part + i];
        return Made(p, w, c);
    }
};

// The arrays of a rollout, and a unit's numbers.
template <class Real, template <class> class Cell>
struct CellRollout {
    using Made = Cell<Real>;
    const Real *projection, *bias, *state, *states;
    const bool* is_first;
    Size batch, units;
    std::vector<Real> numbers;

    CellRollout(
        const Real* projection, const Real* own, const Real* bias, const Real* state, const Real* states,
        const bool* is_first, Size batch, Size units)
        : projection(projection), bias(bias), state(state), states(states), is_first(is_first), batch(batch),
          units(units), numbers(Made::numbers * units) {
        Made::prepare(own, numbers.data(), units);
    }
    Rows<Real, Cell> rows(Size t, const Block& block) const {
        const Size row = t * batch + block.stream, size = Made::parts * units;
        return {
            projection + row * Made::gates * units + block.begin, bias + block.begin, numbers.data() + block.begin,
            previous_states(state, states, is_first, t, batch, size, block.stream, block.begin), units,
            is_first[row] ? 0 : units};
    }
};

// One unit's. What has an address would keep a loop from vectors if it were declared in the loop itself.
template <class Real, template <class> class Cell>
inline void forward_step(const Rows<Real, Cell>& rows, Size i, Real* states) {
    constexpr int parts = Cell<Real>::parts;
    Real c[parts];
    rows.at(i).state(c);
    for (int q = 0; q < parts; ++q) states[q * rows.units + i] = c[q];
}

template <class Real, template <class> class Cell>
void cell_forward(
    const Real* projection, const Real* own, const Real* bias, const Real* state, const bool* is_first, Real* states,
    Size steps, Size batch, Size units, int threads) {
    constexpr int parts = Cell<Real>::parts;
    const CellRollout<Real, Cell> rollout(projection, own, bias, state, states, is_first, batch, units);
    const Size blocks = blocks_of(units), items = batch * blocks;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < items; ++item) {
        const Block block(item, blocks, units);
        for (Size t = 0; t < steps; ++t) {
            const auto rows = rollout.rows(t, block);
            Real* out = states + (t * batch + block.stream) * parts * units + block.begin;
#pragma omp simd
            for (Size i = 0; i < block.width; ++i) forward_step(rows, i, out);
        }
    }
}

// What the reverse loop carries from step to step, of one block.
template <class Real, template <class> class Cell>
struct Running {
    static constexpr int gates = Cell<Real>::gates, own = Cell<Real>::own, parts = Cell<Real>::parts;
    Real total[parts][kBlock] = {};         // a_{t+1} d_{t+1}
    Real after[parts][parts][kBlock] = {};  // prod_{s>t} a_s: each row is a gradient of the last state
    Real by_vectors[own + gates][kBlock] = {}, gained[parts][own + gates][kBlock] = {};

    explicit Running(Size width) {
        for (int q = 0; q < parts; ++q) std::fill_n(after[q][q], width, Real(1));
    }
    void forget_all() {
        std::memset(total, 0, sizeof total);
        std::memset(after, 0, sizeof after);
    }
};

template <class Real, template <class> class Cell, bool jump>
inline void backward_step(
    const Rows<Real, Cell>& rows, Size i, const Real* direct, Real* by_projection, Real* weighted,
    Running<Real, Cell>& run) {
    constexpr int gates = Cell<Real>::gates, own = Cell<Real>::own, parts = Cell<Real>::parts;
    const Size units = rows.units;
    const Cell<Real> cell = rows.at(i);
    Real d[parts], by_gates[gates], by_own[own + 1], by_previous[parts];
    for (int q = 0; q < parts; ++q) d[q] = direct[q * units + i] + run.total[q][i];
    cell.pull(d, by_gates, by_own, by_previous);
    for (int l = 0; l < own; ++l) run.by_vectors[l][i] += by_own[l];
    for (int k = 0; k < gates; ++k) {
        by_projection[k * units + i] = by_gates[k];
        run.by_vectors[own + k][i] += by_gates[k];
    }
    for (int q = 0; q < parts; ++q) run.total[q][i] = by_previous[q];
    for (int part = 0; jump && part < parts; ++part) {
        for (int q = 0; q < parts; ++q) d[q] = run.after[part][q][i];
        cell.pull(d, by_gates, by_own, by_previous);
        for (int l = 0; l < own; ++l) run.gained[part][l][i] += by_own[l];
        for (int k = 0; k < gates; ++k) {
            weighted[(part * gates + k) * units + i] = by_gates[k];
            run.gained[part][own + k][i] += by_gates[k];
        }
        for (int q = 0; q < parts; ++q) run.after[part][q][i] = by_previous[q];
    }
}

template <class Real, template <class> class Cell, bool jump>
void cell_reverse(
    const CellRollout<Real, Cell>& rollout, const Real* direct, Real* by_projection, Real* by_stream, Real* boundary,
    Real* decay, Real* weighted, Real* gained, Size steps, int threads) {
    using Run = Running<Real, Cell>;
    constexpr Size gates = Run::gates, parts = Run::parts, vectors = Run::own + Run::gates;
    const Size units = rollout.units, blocks = blocks_of(units), items = rollout.batch * blocks;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < items; ++item) {
        const Block block(item, blocks, units);
        Run run(block.width);
        for (Size t = steps - 1; t >= 0; --t) {
            const Size row = t * rollout.batch + block.stream;
            const auto rows = rollout.rows(t, block);
            const Real* e = direct + row * parts * units + block.begin;
            Real* by = by_projection + row * gates * units + block.begin;
            Real* gain = jump ? weighted + row * parts * gates * units + block.begin : nullptr;
#pragma omp simd
            for (Size i = 0; i < block.width; ++i) backward_step<Real, Cell, jump>(rows, i, e, by, gain, run);
            if (rollout.is_first[row]) run.forget_all();
        }
        const auto store = [&](const Real* from, Real* to, Size row) {
            std::copy_n(from, block.width, to + row * units + block.begin);
        };
        const Size stream = block.stream;
        for (Size l = 0; l < vectors; ++l) store(run.by_vectors[l], by_stream, stream * vectors + l);
        for (Size p = 0; p < parts; ++p) {
            store(run.total[p], boundary, stream * parts + p);
            for (Size q = 0; jump && q < parts; ++q) store(run.after[p][q], decay, (stream * parts + p) * parts + q);
            for (Size l = 0; jump && l < vectors; ++l)
                store(run.gained[p][l], gained, (stream * parts + p) * vectors + l);
        }
    }
}

// by_vectors is by_stream summed over the streams; without jump weighted is null, and what belongs to it.
template <class Real, template <class> class Cell>
void cell_backward(
    const Real* direct, const Real* projection, const Real* own, const Real* bias, const Real* states,
    const Real* state, const bool* is_first, Real* by_projection, Real* by_vectors, Real* by_stream, Real* boundary,
    Real* decay, Real* weighted, Real* gained, Size steps, Size batch, Size units, int threads) {
    const CellRollout<Real, Cell> rollout(projection, own, bias, state, states, is_first, batch, units);
    const auto run = weighted ? cell_reverse<Real, Cell, true> : cell_reverse<Real, Cell, false>;
    run(rollout, direct, by_projection, by_stream, boundary, decay, weighted, gained, steps, threads);
    sum_streams(by_stream, by_vectors, batch, (Cell<Real>::own + Cell<Real>::gates) * units);
}

}  // namespace
