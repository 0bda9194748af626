// What observations and rewards are normalised by: the moments of all that was seen, which a batch of B rows joins.

#pragma once

#include "native_blocks.h"

namespace {

// moments: number, mean and variance, [3, width] as doubles (r2ac.agents.moments.merged). What is not finite counts as 0.
template <class Real>
void merge(const Real* values, double* moments, Real* mean, Real* deviation, Size rows, Size width) {
    for (Size i = 0; i < width; ++i) {
        double sum = 0, squares = 0;
        for (Size b = 0; b < rows; ++b) {
            const double value = std::isfinite(values[b * width + i]) ? double(values[b * width + i]) : 0.0;
            sum += value;
            squares += value * value;
        }
        double &count = moments[i], &middle = moments[width + i], &variance = moments[2 * width + i];
        const double number = double(rows), new_mean = sum / number, share = number / (count + number);
        const double new_variance = std::max(squares / number - new_mean * new_mean, 0.0);
        const double difference = new_mean - middle;
        variance += share * (new_variance - variance + (1 - share) * difference * difference);
        middle += share * difference;
        count += number;
        if (mean) mean[i] = Real(middle);
        deviation[i] = Real(std::sqrt(variance + 1e-8));
    }
}

template <class Real>
void observe_vectors(
    const Real* values, double* moments, Real* mean, Real* deviation, Size rows, Size width, int) {
    merge(values, moments, mean, deviation, rows, width);
}

// The returns of the streams so far, [R], go on by a reward each, and those of the batch join the moments.
template <class Real>
void observe_returns(
    Real* deviation, const float* rewards, const bool* begins, const Size* streams, float* returns,
    const double* discount, double* moments, Size batch, int) {
    std::vector<Real> values(batch);
    for (Size b = 0; b < batch; ++b) {
        const float reward = std::isfinite(rewards[b]) ? rewards[b] : 0.0f;
        float& last = returns[streams[b]];
        last = reward + (begins[b] ? 0.0f : float(*discount) * last);
        values[b] = Real(last);
    }
    merge<Real>(values.data(), moments, nullptr, deviation, batch, 1);
}

}  // namespace
