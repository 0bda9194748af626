// The scans of the eLSTM and the sensitivity pass for CPUs; native.py compiles, loads and calls this.
//
// All arrays are contiguous. Work is dealt out in blocks of a fixed number of units of one stream: a unit's result
// then does not depend on the number of threads, and what a block sums over the steps stays in the L1 cache.
// Comparisons are written so that NaN passes: the learner detects divergence by it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Size = std::int64_t;
constexpr Size kBlock = 128;
constexpr Size kSteps = 64;  // of a matrix product at a time, so that its packed factors stay in the L2 cache

// A tile of kRows x kColumns vectors, which fills the registers but for those of its factors.
constexpr int kColumns = 3;
#if defined(__AVX512F__)
constexpr int kRows = 8, kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kRows = 4, kVectorBytes = 32;
#else
constexpr int kRows = 4, kVectorBytes = 16;
#endif

template <class Real>
struct Lanes {
    typedef Real Vector __attribute__((vector_size(kVectorBytes)));
    static constexpr Size count = kVectorBytes / sizeof(Real);
};

double exponential(double x) { return std::exp(x); }

double hyperbolic_tangent(double x) { return std::tanh(x); }

// e^x = 2^n e^r with n = round(x / ln 2); the polynomial and the two parts of ln 2 are those of Cephes' expf.
inline float exponential(float x) {
    x = x > 89.0f ? 89.0f : x;  // infinity from 88.8 on
    x = x < -104.0f ? -104.0f : x;  // zero from -103.98 on
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the lowest bits
    const float shifted = x * 1.44269504f + round;
    const float n = shifted - round;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    // 2^n as a product of two powers, because one alone cannot reach infinity or the denormal numbers.
    std::int32_t bits, round_bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    std::memcpy(&round_bits, &round, sizeof round_bits);
    const std::int32_t exponent = bits - round_bits, half = exponent >> 1;
    const std::uint32_t first_bits = static_cast<std::uint32_t>(half + 127) << 23;
    const std::uint32_t second_bits = static_cast<std::uint32_t>(exponent - half + 127) << 23;
    float first, second;
    std::memcpy(&first, &first_bits, sizeof first);
    std::memcpy(&second, &second_bits, sizeof second);
    return p * first * second;
}

// Near zero the odd polynomial of Cephes' tanhf, since 1 - 2 / (e^2x + 1) cancels there (and, below zero, rounds worse).
inline float hyperbolic_tangent(float x) {
    const float far = std::copysign(1.0f - 2.0f / (exponential(2.0f * std::fabs(x)) + 1.0f), x);
    const float square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const float near = p * square * x + x;
    return std::fabs(x) < 0.625f ? near : far;
}

template <class Real>
inline Real sigmoid(Real x) {
    return Real(1) / (Real(1) + exponential(-x));
}

struct Block {
    Size stream, begin, width;
    Block(Size item, Size blocks, Size units)
        : stream(item / blocks), begin(item % blocks * kBlock), width(std::min(kBlock, units - begin)) {}
};

Size blocks_of(Size units) { return (units + kBlock - 1) / kBlock; }

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

// The cell states before step t as the step sees them: by selection, so that a reset forgets NaN and infinity, too.
template <class Real>
const Real* previous_cells(
    const Real* cell, const Real* cells, const bool* is_first, Size t, Size batch, Size units, const Block& block) {
    static const Real zeros[kBlock] = {};
    if (is_first[t * batch + block.stream]) return zeros;
    const Real* rows = t ? cells + (t - 1) * batch * units : cell;
    return rows + block.stream * units + block.begin;
}

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
            const Real* previous = previous_cells(cell, cells, is_first, t, batch, units, block);
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
void elstm_backward(
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
                previous_cells(cell, cells, is_first, t, batch, units, block), direct + at, by_projection + at_gates,
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

// S += weights^T x for R rows and C vectors of columns of S, which wait in registers while the steps pass.
template <class Real, int R, int C>
inline void multiply_tile(Real* s, Size width, const Real* weights, const Real* x, Size padded, Size steps) {
    using Vector = typename Lanes<Real>::Vector;
    constexpr Size lanes = Lanes<Real>::count;
    Vector sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) std::memcpy(&sum[r][c], s + r * width + c * lanes, sizeof(Vector));
    for (Size t = 0; t < steps; ++t) {
        Vector row[C];
        std::memcpy(row, x + t * padded, sizeof row);
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) sum[r][c] += weights[t * kBlock + r] * row[c];
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) std::memcpy(s + r * width + c * lanes, &sum[r][c], sizeof(Vector));
}

// The same for R whole rows; the last columns, fewer than a vector, pass through a buffer.
template <class Real, int R>
inline void multiply_rows(Real* s, Size width, const Real* weights, const Real* x, Size padded, Size steps) {
    constexpr Size lanes = Lanes<Real>::count;
    Size d = 0;
    for (; d + kColumns * lanes <= width; d += kColumns * lanes)
        multiply_tile<Real, R, kColumns>(s + d, width, weights, x + d, padded, steps);
    for (; d + lanes <= width; d += lanes) multiply_tile<Real, R, 1>(s + d, width, weights, x + d, padded, steps);
    if (d == width) return;
    Real edge[R * lanes] = {};
    for (int r = 0; r < R; ++r) std::copy_n(s + r * width + d, width - d, edge + r * lanes);
    multiply_tile<Real, R, 1>(edge, lanes, weights, x + d, padded, steps);
    for (int r = 0; r < R; ++r) std::copy_n(edge + r * lanes, width - d, s + r * width + d);
}

// term += boundary S and S <- decay S for some rows of one stream; S is zero where it is not kept.
template <class Real>
void contract_and_decay(
    Real* s, Real* term, bool keep, const Real* boundary, const Real* decay, Size rows, Size width) {
    if (!keep) {
        std::fill_n(s, rows * width, Real(0));
        return;
    }
    for (Size row = 0; row < rows; ++row, s += width, term += width) {
        const Real by_cell = boundary[row], factor = decay[row];
#pragma omp simd
        for (Size d = 0; d < width; ++d) {
            term[d] += by_cell * s[d];
            s[d] *= factor;
        }
    }
}

// A thread takes some rows of one gate through all streams: they and their sum stay in its L2 cache between the light
// pass and the product, and the sum over streams has one order.
template <class Real>
void sensitivity_pass(
    Real* matrix, Real* term, const Size* streams, const bool* keeps, const Real* boundary, const Real* decay,
    const Real* weighted, const Real* inputs, Size steps, Size batch, Size gates, Size units, Size width, int threads) {
    constexpr Size lanes = Lanes<Real>::count;
    const Size padded = (width + lanes - 1) / lanes * lanes;
    const Size share = gates * units / (2 * threads) / kRows * kRows;
    const Size panel = std::min(kBlock, std::max<Size>(share, kRows)), panels = (units + panel - 1) / panel;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < gates * panels; ++item) {
        const Size k = item / panels, begin = item % panels * panel, rows = std::min(panel, units - begin);
        std::vector<Real> x(kSteps * padded), weights(kSteps * kBlock);
        for (Size b = 0; b < batch; ++b) {
            Real* s = matrix + ((streams[b] * gates + k) * units + begin) * width;
            contract_and_decay(
                s, term + (k * units + begin) * width, keeps[b], boundary + b * units + begin,
                decay + b * units + begin, rows, width);
            for (Size first = 0; first < steps; first += kSteps) {
                const Size count = std::min(kSteps, steps - first);
                for (Size t = 0; t < count; ++t) {
                    const Size row = (first + t) * batch + b;
                    std::copy_n(inputs + row * width, width, x.data() + t * padded);
                    std::copy_n(weighted + (row * gates + k) * units + begin, rows, weights.data() + t * kBlock);
                }
                Size n = 0;
                for (; n + kRows <= rows; n += kRows)
                    multiply_rows<Real, kRows>(s + n * width, width, &weights[n], x.data(), padded, count);
                for (; n < rows; ++n)
                    multiply_rows<Real, 1>(s + n * width, width, &weights[n], x.data(), padded, count);
            }
        }
    }
}

// The same for the vectors, which have one number where the matrix has a row: too little for a second thread.
template <class Real>
void vector_pass(
    Real* vectors, Real* term, const Size* streams, const bool* keeps, const Real* boundary, const Real* decay,
    const Real* gained, Size batch, Size rows, Size units) {
    std::fill_n(term, rows * units, Real(0));
    for (Size row = 0; row < batch * rows; ++row) {
        const Size b = row / rows, l = row % rows;
        Real *s = vectors + (streams[b] * rows + l) * units, *sum = term + l * units;
        const Real *by_state = boundary + b * units, *factor = decay + b * units, *gain = gained + row * units;
        const bool keep = keeps[b];
#pragma omp simd
        for (Size i = 0; i < units; ++i) {
            const Real before = keep ? s[i] : Real(0);
            sum[i] += by_state[i] * before;
            s[i] = factor[i] * before + gain[i];
        }
    }
}

}  // namespace

// Arrays first, then sizes, then the number of threads; native.py declares the same. For arrays that a call without
// jump does not fill null is given.
#define R2AC_EXPORT(Real)                                                                                              \
    void elstm_forward_##Real(                                                                                         \
        const Real* projection, const Real* weight, const Real* bias, const Real* cell, const bool* is_first,          \
        Real* cells, Size steps, Size batch, Size units, int threads) {                                                \
        elstm_forward(projection, weight, bias, cell, is_first, cells, steps, batch, units, threads);                  \
    }                                                                                                                  \
    void elstm_backward_##Real(                                                                                        \
        const Real* direct, const Real* projection, const Real* weight, const Real* bias, const Real* cells,           \
        const Real* cell, const bool* is_first, Real* by_projection, Real* by_vectors, Real* by_stream,                \
        Real* boundary, Real* decay, Real* weighted, Real* gained, Size steps, Size batch, Size units, int threads) {  \
        const auto run = weighted ? elstm_backward<Real, true> : elstm_backward<Real, false>;                          \
        run(direct, projection, weight, bias, cells, cell, is_first, by_projection, by_stream, boundary, decay,        \
            weighted, gained, steps, batch, units, threads);                                                           \
        sum_streams(by_stream, by_vectors, batch, 4 * units);                                                          \
    }                                                                                                                  \
    void backward_scan_##Real(                                                                                         \
        const Real* direct, const Real* jacobian, Real* total, Size steps, Size width, int threads) {                  \
        backward_scan(direct, jacobian, total, steps, width, threads);                                                 \
    }                                                                                                                  \
    void sensitivity_pass_##Real(                                                                                      \
        Real* matrix, Real* term, const Size* streams, const bool* keeps, const Real* boundary, const Real* decay,     \
        const Real* weighted, const Real* inputs, Size steps, Size batch, Size gates, Size units, Size width,          \
        int threads) {                                                                                                 \
        sensitivity_pass(matrix, term, streams, keeps, boundary, decay, weighted, inputs, steps, batch, gates, units,  \
                         width, threads);                                                                              \
    }                                                                                                                  \
    void vector_pass_##Real(                                                                                           \
        Real* vectors, Real* term, const Size* streams, const bool* keeps, const Real* boundary, const Real* decay,    \
        const Real* gained, Size batch, Size rows, Size units, int) {                                                  \
        vector_pass(vectors, term, streams, keeps, boundary, decay, gained, batch, rows, units);                       \
    }

extern "C" {
R2AC_EXPORT(float)
R2AC_EXPORT(double)
}
