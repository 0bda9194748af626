// The scans of any cell: forward where it is linear in its state, backward from its derivatives.
//
// parts is 1 where a unit's state is a number, 2 where it is a pair. What does not differ between the steps and streams
// is given once: its rows, one a step and stream, are then 0 numbers apart.

#pragma once

#include "native_blocks.h"
#include "native_math.h"

namespace {

// c_t = a_t c_{t-1} + b_t, or tanh of it; for pairs a, b and c are complex numbers, and tanh is of each part.
template <class Real, bool squashed>
void forward_of(
    const Real* factor, const Real* added, const Real* state, const bool* is_first, Real* states, Size factor_row,
    Size parts, Size steps, Size batch, Size units, int threads) {
    const auto output = [](Real x) { return squashed ? hyperbolic_tangent(x) : x; };
    const Size blocks = blocks_of(units), items = batch * blocks, size = parts * units;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < items; ++item) {
        const Block block(item, blocks, units);
        for (Size t = 0; t < steps; ++t) {
            const Size row = t * batch + block.stream, at = row * size + block.begin;
            const Real *a = factor + row * factor_row + block.begin, *b = added + at;
            const Real* c = previous_states(state, states, is_first, t, batch, size, block.stream, block.begin);
            Real* out = states + at;
            if (parts == 1) {
#pragma omp simd
                for (Size i = 0; i < block.width; ++i) out[i] = output(a[i] * c[i] + b[i]);
                continue;
            }
            const Real* other =
                previous_states(state, states, is_first, t, batch, size, block.stream, units + block.begin);
#pragma omp simd
            for (Size i = 0; i < block.width; ++i) {
                out[i] = output(a[i] * c[i] - a[units + i] * other[i] + b[i]);
                out[units + i] = output(a[units + i] * c[i] + a[i] * other[i] + b[units + i]);
            }
        }
    }
}

template <class Real>
void linear_forward(
    const Real* factor, const Real* added, const Real* state, const bool* is_first, Real* states, Size factor_row,
    Size squashed, Size parts, Size steps, Size batch, Size units, int threads) {
    const auto run = squashed ? forward_of<Real, true> : forward_of<Real, false>;
    run(factor, added, state, is_first, states, factor_row, parts, steps, batch, units, threads);
}

// What the reverse loop carries from step to step, of one block.
template <class Real, int parts>
struct Carried {
    Real total[parts][kBlock] = {};  // d_t, and after the step a_t d_t
    Real after[parts][parts][kBlock] = {};  // prod_{s>t} a_s
    explicit Carried(Size width) {
        for (int p = 0; p < parts; ++p) std::fill_n(after[p][p], width, Real(1));
    }
};

// One gate or own parameter at one step: its derivative's rows and the rows that they add to, `stride` from one part of
// the pair to the next.
template <class Real, int parts, bool jump, bool gate>
inline void add_vector(
    const Carried<Real, parts>& run, const Real* derivative, Size stride, Real* sum, Real* gain, Size gain_stride,
    Real* by_projection, Real* weighted, Size width) {
#pragma omp simd
    for (Size i = 0; i < width; ++i) {
        Real by = run.total[0][i] * derivative[i];
        if (parts == 2) by += run.total[parts - 1][i] * derivative[stride + i];
        sum[i] += by;
        if (gate) by_projection[i] = by;
        if (jump) {
            for (int p = 0; p < parts; ++p) {
                Real gained = run.after[p][0][i] * derivative[i];
                if (parts == 2) gained += run.after[p][parts - 1][i] * derivative[stride + i];
                gain[p * gain_stride + i] += gained;
                if (gate) weighted[p * stride + i] = gained;
            }
        }
    }
}

// d_t -> a_t d_t, and the product of the later a with a_t.
template <class Real, int parts, bool jump>
inline void step_back(Carried<Real, parts>& run, const Real* a, Size units, Size width) {
#pragma omp simd
    for (Size i = 0; i < width; ++i) {
        if (parts == 1) {
            run.total[0][i] *= a[i];
            if (jump) run.after[0][0][i] *= a[i];
            continue;
        }
        const Real a00 = a[i], a01 = a[units + i], a10 = a[2 * units + i], a11 = a[3 * units + i];
        const Real d0 = run.total[0][i], d1 = run.total[parts - 1][i];
        run.total[0][i] = a00 * d0 + a10 * d1;
        run.total[parts - 1][i] = a01 * d0 + a11 * d1;
        if (jump) {
            for (int p = 0; p < parts; ++p) {
                const Real left = run.after[p][0][i], right = run.after[p][parts - 1][i];
                run.after[p][0][i] = left * a00 + right * a10;
                run.after[p][parts - 1][i] = left * a01 + right * a11;
            }
        }
    }
}

template <class Real, int parts, bool jump>
void reverse_block(
    const Real* direct, const Real* jacobian, const Real* by_gates, const Real* by_own, const bool* is_first,
    Real* by_projection, Real* by_stream, Real* boundary, Real* decay, Real* weighted, Real* gained, Size jacobian_row,
    Size gates_row, Size own_row, Size steps, Size batch, Size gates, Size own, Size units, const Block& block) {
    const Size vectors = own + gates, width = block.width;
    Carried<Real, parts> run(width);
    Real* sums = by_stream + block.stream * vectors * units + block.begin;
    Real* gains = jump ? gained + block.stream * parts * vectors * units + block.begin : nullptr;
    for (Size l = 0; l < vectors; ++l) std::fill_n(sums + l * units, width, Real(0));
    for (Size l = 0; jump && l < parts * vectors; ++l) std::fill_n(gains + l * units, width, Real(0));
    for (Size t = steps - 1; t >= 0; --t) {
        const Size row = t * batch + block.stream;
        for (int p = 0; p < parts; ++p) {
            const Real* e = direct + (row * parts + p) * units + block.begin;
#pragma omp simd
            for (Size i = 0; i < width; ++i) run.total[p][i] += e[i];
        }
        for (Size l = 0; l < own; ++l)
            add_vector<Real, parts, jump, false>(
                run, by_own + row * own_row + l * units + block.begin, own * units, sums + l * units,
                jump ? gains + l * units : nullptr, vectors * units, nullptr, nullptr, width);
        for (Size k = 0; k < gates; ++k)
            add_vector<Real, parts, jump, true>(
                run, by_gates + row * gates_row + k * units + block.begin, gates * units, sums + (own + k) * units,
                jump ? gains + (own + k) * units : nullptr, vectors * units,
                by_projection + (row * gates + k) * units + block.begin,
                jump ? weighted + (row * parts * gates + k) * units + block.begin : nullptr, width);
        if (is_first[row]) {
            std::memset(&run, 0, sizeof run);
        } else {
            step_back<Real, parts, jump>(run, jacobian + row * jacobian_row + block.begin, units, width);
        }
    }
    for (int p = 0; p < parts; ++p) {
        const Size at = (block.stream * parts + p) * units + block.begin;
        std::copy_n(run.total[p], width, boundary + at);
        for (int q = 0; jump && q < parts; ++q)
            std::copy_n(
                run.after[p][q], width, decay + ((block.stream * parts + p) * parts + q) * units + block.begin);
    }
}

// by_vectors is by_stream summed over the streams; without jump weighted is null, and what belongs to it.
template <class Real>
void linear_reverse(
    const Real* direct, const Real* jacobian, const Real* by_gates, const Real* by_own, const bool* is_first,
    Real* by_projection, Real* by_vectors, Real* by_stream, Real* boundary, Real* decay, Real* weighted, Real* gained,
    Size jacobian_row, Size gates_row, Size own_row, Size parts, Size steps, Size batch, Size gates, Size own,
    Size units, int threads) {
    const auto run = parts == 1 ? (weighted ? reverse_block<Real, 1, true> : reverse_block<Real, 1, false>)
                                : (weighted ? reverse_block<Real, 2, true> : reverse_block<Real, 2, false>);
    const Size blocks = blocks_of(units), items = batch * blocks;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < items; ++item)
        run(direct, jacobian, by_gates, by_own, is_first, by_projection, by_stream, boundary, decay, weighted, gained,
            jacobian_row, gates_row, own_row, steps, batch, gates, own, units, Block(item, blocks, units));
    sum_streams(by_stream, by_vectors, batch, (own + gates) * units);
}

}  // namespace
