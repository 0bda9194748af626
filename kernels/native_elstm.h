// The scans of the eLSTM.

#pragma once

#include "native_blocks.h"
#include "native_math.h"

namespace {

// What a step reads: rows of one block, gate 0 (forget) and gate 1 (candidate).
template <class Real>
struct Gates {
    const Real *p0, *p1, *w0, *w1, *b0, *b1;
    Gates(const Real* projection, const Real* weight, const Real* bias, Size row, Size units, Size begin)
        : p0(projection + row * 2 * units + begin), p1(p0 + units), w0(weight + begin), w1(w0 + units),
          b0(bias + begin), b1(b0 + units) {}
    Real forget(Size i, Real previous) const { return sigmoid(p0[i] + b0[i] + w0[i] * previous); }
    Real candidate(Size i, Real previous) const { return hyperbolic_tangent(p1[i] + b1[i] + w1[i] * previous); }
};

template <class Real>
void elstm_forward(
    const Real* projection, const Real* weight, const Real* bias, const Real* cell, const bool* is_first, Real* cells,
    Size steps, Size batch, Size units, int threads) {
    const Size blocks = blocks_of(units), items = batch * blocks;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < items; ++item) {
        const Block block(item, blocks, units);
        for (Size t = 0; t < steps; ++t) {
            const Size row = t * batch + block.stream;
            const Gates<Real> gates(projection, weight, bias, row, units, block.begin);
            const Real* previous = previous_states(cell, cells, is_first, t, batch, units, block.stream, block.begin);
            Real* out = cells + row * units + block.begin;
#pragma omp simd
            for (Size i = 0; i < block.width; ++i) {
                const Real f = gates.forget(i, previous[i]), z = gates.candidate(i, previous[i]);
                out[i] = f * previous[i] + (Real(1) - f) * z;
            }
        }
    }
}

// What the reverse loop carries from step to step, of one block.
template <class Real>
struct Running {
    Real total[kBlock];  // a_{t+1} d_{t+1}
    Real after[kBlock];  // prod_{s>t} a_s
    Real by_weight[2][kBlock], by_bias[2][kBlock], weight_gain[2][kBlock], bias_gain[2][kBlock];
    explicit Running(Size width) {
        std::memset(this, 0, sizeof *this);
        std::fill_n(after, width, Real(1));
    }
    void forget_all() {
        std::fill_n(total, kBlock, Real(0));
        std::fill_n(after, kBlock, Real(0));
    }
};

template <class Real, bool jump>
inline void backward_step(
    const Gates<Real>& gates, const Real* previous, const Real* direct, Real* by_projection, Real* weighted,
    Size units, Size width, Running<Real>& run) {
#pragma omp simd
    for (Size i = 0; i < width; ++i) {
        const Real c = previous[i], f = gates.forget(i, c), z = gates.candidate(i, c), keep = Real(1) - f;
        const Real u0 = (c - z) * f * keep, u1 = keep * (Real(1) - z * z);
        const Real d = direct[i] + run.total[i], by0 = d * u0, by1 = d * u1;
        by_projection[i] = by0;
        by_projection[units + i] = by1;
        run.by_weight[0][i] += by0 * c;
        run.by_weight[1][i] += by1 * c;
        run.by_bias[0][i] += by0;
        run.by_bias[1][i] += by1;
        const Real jacobian = f + gates.w1[i] * u1 + gates.w0[i] * u0;
        run.total[i] = jacobian * d;
        if (jump) {
            const Real gain0 = run.after[i] * u0, gain1 = run.after[i] * u1;
            weighted[i] = gain0;
            weighted[units + i] = gain1;
            run.weight_gain[0][i] += gain0 * c;
            run.weight_gain[1][i] += gain1 * c;
            run.bias_gain[0][i] += gain0;
            run.bias_gain[1][i] += gain1;
            run.after[i] *= jacobian;
        }
    }
}

// Rows of one stream in an array [B, 4, N]: those of the recurrent weights, then those of the biases.
template <class Real>
void store_sums(
    const Real (&of_weight)[2][kBlock], const Real (&of_bias)[2][kBlock], Real* sums, Size units,
    const Block& block) {
    for (Size k = 0; k < 2; ++k) {
        Real* row = sums + (block.stream * 4 + k) * units + block.begin;
        std::copy_n(of_weight[k], block.width, row);
        std::copy_n(of_bias[k], block.width, row + 2 * units);
    }
}

template <class Real, bool jump>
void elstm_reverse(
    const Real* direct, const Real* projection, const Real* weight, const Real* bias, const Real* cells,
    const Real* cell, const bool* is_first, Real* by_projection, Real* by_stream, Real* boundary, Real* decay,
    Real* weighted, Real* gained, Size steps, Size batch, Size units, int threads) {
    const Size blocks = blocks_of(units), items = batch * blocks;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < items; ++item) {
        const Block block(item, blocks, units);
        Running<Real> run(block.width);
        for (Size t = steps - 1; t >= 0; --t) {
            const Size row = t * batch + block.stream, at = row * units + block.begin;
            const Size at_gates = row * 2 * units + block.begin;
            backward_step<Real, jump>(
                Gates<Real>(projection, weight, bias, row, units, block.begin),
                previous_states(cell, cells, is_first, t, batch, units, block.stream, block.begin), direct + at, by_projection + at_gates,
                jump ? weighted + at_gates : nullptr, units, block.width, run);
            if (is_first[row]) run.forget_all();
        }
        const Size at = block.stream * units + block.begin;
        std::copy_n(run.total, block.width, boundary + at);
        store_sums(run.by_weight, run.by_bias, by_stream, units, block);
        if (jump) {
            std::copy_n(run.after, block.width, decay + at);
            store_sums(run.weight_gain, run.bias_gain, gained, units, block);
        }
    }
}

// by_vectors is by_stream summed over the streams; without jump weighted is null, and what belongs to it.
template <class Real>
void elstm_backward(
    const Real* direct, const Real* projection, const Real* weight, const Real* bias, const Real* cells,
    const Real* cell, const bool* is_first, Real* by_projection, Real* by_vectors, Real* by_stream, Real* boundary,
    Real* decay, Real* weighted, Real* gained, Size steps, Size batch, Size units, int threads) {
    const auto run = weighted ? elstm_reverse<Real, true> : elstm_reverse<Real, false>;
    run(direct, projection, weight, bias, cells, cell, is_first, by_projection, by_stream, boundary, decay, weighted,
        gained, steps, batch, units, threads);
    sum_streams(by_stream, by_vectors, batch, 4 * units);
}

}  // namespace
