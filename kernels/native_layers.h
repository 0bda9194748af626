// Linear and normalising layers over the rows of a rollout, and their gradients.

#pragma once

#include <initializer_list>
#include <memory>

#include "native_gemm.h"

namespace {

template <class Real>
std::unique_ptr<Real[]> room(Size count) { return std::unique_ptr<Real[]>(new Real[count]); }

template <class Real>
struct Inputs {
    const Real* rows;
    Size width;
};

// y = W [inputs, one beside the other] + b for each row; without a bias 0.
template <class Real>
void linear(
    std::initializer_list<Inputs<Real>> inputs, const Real* weight, const Real* bias, Real* y, Size rows, Size outputs,
    int threads) {
    Size width = 0, begin = 0;
    for (const auto& each : inputs) width += each.width;
    const auto turned = room<Real>(width * outputs);
    constexpr Size tile = 16;
    for (Size first = 0; first < width; first += tile)
        for (Size o = 0; o < outputs; ++o)
            for (Size i = first; i < std::min(width, first + tile); ++i)
                turned[i * outputs + o] = weight[o * width + i];
    for (Size row = 0; row < rows; ++row)
        for (Size o = 0; o < outputs; ++o) y[row * outputs + o] = bias ? bias[o] : Real(0);
    for (const auto& each : inputs) {
        const Real* part = turned.get() + begin * outputs;
        multiply<Real>({each.rows, each.width, 1}, part, outputs, y, outputs, rows, outputs, each.width, threads);
        begin += each.width;
    }
}

// The gradients by W and, if there is one, b.
template <class Real>
void linear_gradient(
    std::initializer_list<Inputs<Real>> inputs, const Real* by_y, Real* by_weight, Real* by_bias, Size rows,
    Size outputs, int threads) {
    Size width = 0, begin = 0;
    for (const auto& each : inputs) width += each.width;
    std::fill_n(by_weight, outputs * width, Real(0));
    for (const auto& each : inputs) {
        Real* part = by_weight + begin;
        multiply<Real>({by_y, 1, outputs}, each.rows, each.width, part, width, outputs, each.width, rows, threads);
        begin += each.width;
    }
    if (!by_bias) return;
    std::fill_n(by_bias, outputs, Real(0));
    const auto sum = room<Real>(outputs);
    for (Size first = 0; first < rows; first += kDepth) {
        sum_streams(by_y + first * outputs, sum.get(), std::min(kDepth, rows - first), outputs);
        for (Size o = 0; o < outputs; ++o) by_bias[o] += sum[o];
    }
}

// The gradients by `columns` of the inputs, of which a row of W has `width`.
template <class Real>
void add_input_gradient(
    const Real* by_y, const Real* weight, Size width, Real* by_input, Size rows, Size columns, Size outputs,
    int threads) {
    multiply<Real>({by_y, outputs, 1}, weight, width, by_input, columns, rows, columns, outputs, threads);
}

// Each row to mean 0 and variance 1, in place; scales: what each was multiplied by.
template <class Real>
void normalise(Real* rows, Real* scales, Size count, Size width) {
    for (Size row = 0; row < count; ++row, rows += width) {
        Real mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
        for (Size i = 0; i < width; ++i) mean += rows[i];
        mean /= width;
#pragma omp simd reduction(+ : variance)
        for (Size i = 0; i < width; ++i) variance += (rows[i] - mean) * (rows[i] - mean);
        scales[row] = Real(1) / std::sqrt(variance / width + Real(1e-5));
        for (Size i = 0; i < width; ++i) rows[i] = (rows[i] - mean) * scales[row];
    }
}

// The gradient by the rows before from that by the normalised ones, in place.
template <class Real>
void normalised_gradient(const Real* normalised, const Real* scales, Real* by_rows, Size count, Size width) {
    for (Size row = 0; row < count; ++row, normalised += width, by_rows += width) {
        Real mean = 0, along = 0;
#pragma omp simd reduction(+ : mean, along)
        for (Size i = 0; i < width; ++i) {
            mean += by_rows[i];
            along += by_rows[i] * normalised[i];
        }
        mean /= width, along /= width;
        for (Size i = 0; i < width; ++i) by_rows[i] = scales[row] * (by_rows[i] - mean - normalised[i] * along);
    }
}

}  // namespace
