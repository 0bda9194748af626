// What the loops over a rollout share; native.py compiles native.cpp, which includes this.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Size = std::int64_t;
constexpr Size kBlock = 128;

struct Block {
    Size stream, begin, width;
    Block(Size item, Size blocks, Size units)
        : stream(item / blocks), begin(item % blocks * kBlock), width(std::min(kBlock, units - begin)) {}
};

Size blocks_of(Size units) { return (units + kBlock - 1) / kBlock; }

// Rows of a block before step t as the step sees them: by selection, so that a reset forgets NaN and infinity, too.
template <class Real>
const Real* previous_states(
    const Real* state, const Real* states, const bool* is_first, Size t, Size batch, Size size, Size stream,
    Size begin) {
    static const Real zeros[kBlock] = {};
    if (is_first[t * batch + stream]) return zeros;
    const Real* rows = t ? states + (t - 1) * batch * size : state;
    return rows + stream * size + begin;
}

// by_stream [B, width] -> by_vectors [width], in the order of the streams.
template <class Real>
void sum_streams(const Real* by_stream, Real* by_vectors, Size batch, Size width) {
    std::fill_n(by_vectors, width, Real(0));
    for (Size b = 0; b < batch; ++b) {
#pragma omp simd
        for (Size i = 0; i < width; ++i) by_vectors[i] += by_stream[b * width + i];
    }
}

template <class Real>
void backward_scan(const Real* direct, const Real* jacobian, Real* total, Size steps, Size width, int threads) {
    const Size blocks = blocks_of(width);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < blocks; ++item) {
        const Size begin = item * kBlock, end = std::min(width, begin + kBlock), last = (steps - 1) * width;
        std::copy(direct + last + begin, direct + last + end, total + last + begin);
        for (Size t = steps - 2; t >= 0; --t) {
            const Size now = t * width, next = now + width;
#pragma omp simd
            for (Size i = begin; i < end; ++i)
                total[now + i] = direct[now + i] + jacobian[next + i] * total[next + i];
        }
    }
}

}  // namespace
