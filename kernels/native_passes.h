// The passes over the sensitivities.

#pragma once

#include "native_blocks.h"
#include "native_gemm.h"

namespace {

constexpr Size kSteps = 64;  // of a matrix product at a time, so that its packed factors stay in the L2 cache

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

// The same for pairs: term += boundary . S and S <- decay S, where `part` numbers of S lie between the two of a pair and
// `units` between those of boundary and decay.
template <class Real>
void contract_and_mix(
    Real* s, Size part, Real* term, bool keep, const Real* boundary, const Real* decay, Size units, Size rows,
    Size width) {
    if (!keep) {
        std::fill_n(s, rows * width, Real(0));
        std::fill_n(s + part, rows * width, Real(0));
        return;
    }
    for (Size row = 0; row < rows; ++row, s += width, term += width) {
        const Real by_first = boundary[row], by_second = boundary[units + row];
        const Real a00 = decay[row], a01 = decay[units + row];
        const Real a10 = decay[2 * units + row], a11 = decay[3 * units + row];
#pragma omp simd
        for (Size d = 0; d < width; ++d) {
            const Real first = s[d], second = s[part + d];
            term[d] += by_first * first + by_second * second;
            s[d] = a00 * first + a01 * second;
            s[part + d] = a10 * first + a11 * second;
        }
    }
}

// R rows of one stream that are narrower than a vector, each computed as a whole one. What its lanes beyond the row hold
// comes from the rows behind and means nothing: in `after` these overwrite it, so that rows are written in their order,
// and in `sum`, [R, lanes], nothing reads it. A stream that is not kept begins at 0. x: [steps, lanes].
template <class Real, int parts, int R>
inline void narrow_rows(
    const Real* before, Real* after, Size part, Real* sum, bool keep, const Real* boundary, const Real* decay,
    const Real* weighted, Size next_step, Size next_part, const Real* x, Size steps, Size units, Size width) {
    using Vector = typename Lanes<Real>::Vector;
    constexpr Size lanes = Lanes<Real>::count;
    Vector row[parts][R] = {};
    for (int r = 0; r < R && keep; ++r) {
        Vector first, second, total;
        std::memcpy(&first, before + r * width, sizeof first);
        std::memcpy(&total, sum + r * lanes, sizeof total);
        if (parts == 1) {
            total += boundary[r] * first;
            row[0][r] = decay[r] * first;
        } else {
            std::memcpy(&second, before + part + r * width, sizeof second);
            total += boundary[r] * first + boundary[units + r] * second;
            row[0][r] = decay[r] * first + decay[units + r] * second;
            row[parts - 1][r] = decay[2 * units + r] * first + decay[3 * units + r] * second;
        }
        std::memcpy(sum + r * lanes, &total, sizeof total);
    }
    for (Size t = 0; t < steps; ++t, weighted += next_step, x += lanes) {
        Vector step;
        std::memcpy(&step, x, sizeof step);
        for (int p = 0; p < parts; ++p)
            for (int r = 0; r < R; ++r) row[p][r] += weighted[p * next_part + r] * step;
    }
    for (int p = 0; p < parts; ++p)
        for (int r = 0; r < R; ++r) std::memcpy(after + p * part + r * width, &row[p][r], sizeof row[p][r]);
}

// A panel of such rows: boundary contraction and jump, through room where vectors may reach beyond the rows.
template <class Real, int parts>
void narrow_pass(
    Real* s, Size part, Real* sum, bool keep, const Real* boundary, const Real* decay, const Real* weighted,
    Size next_step, Size next_part, const Real* x, Size steps, Size units, Size rows, Size width) {
    constexpr Size lanes = Lanes<Real>::count, room = (kBlock + 1) * lanes;
    Real before[parts * room], after[parts * room];
    const Size size = rows * width;
    for (int p = 0; p < parts && keep; ++p)
        std::fill_n(std::copy_n(s + p * part, size, before + p * room), lanes, Real(0));
    const auto run = [&](auto rows_at_once, Size n) {
        narrow_rows<Real, parts, decltype(rows_at_once)::value>(
            before + n * width, after + n * width, room, sum + n * lanes, keep, boundary + n, decay + n, weighted + n,
            next_step, next_part, x, steps, units, width);
    };
    Size n = 0;
    for (; n + kRows <= rows; n += kRows) run(std::integral_constant<int, kRows>(), n);
    for (; n < rows; ++n) run(std::integral_constant<int, 1>(), n);
    for (int p = 0; p < parts; ++p) std::copy_n(after + p * room, size, s + p * part);
}

// A thread takes some rows of one gate through all streams: they and their sum stay in its L2 cache between the light
// pass and the product, and the sum over streams has one order. A unit's state has `parts` numbers, 1 or 2.
template <class Real>
void sensitivity_pass(
    Real* matrix, Real* term, const Size* streams, const bool* fresh, const Real* boundary, const Real* decay,
    const Real* weighted, const Real* inputs, Size parts, Size steps, Size batch, Size gates, Size units, Size width,
    int threads) {
    constexpr Size lanes = Lanes<Real>::count;
    const Size padded = (width + lanes - 1) / lanes * lanes, part = gates * units * width;
    const Size share = gates * units / (2 * threads) / kRows * kRows;
    const Size panel = std::min(kBlock, std::max<Size>(share, kRows)), panels = (units + panel - 1) / panel;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < gates * panels; ++item) {
        const Size k = item / panels, begin = item % panels * panel, rows = std::min(panel, units - begin);
        if (width < lanes) {
            std::vector<Real> sum(rows * lanes), x(steps * lanes);
            Real* of_panel = term + (k * units + begin) * width;
            for (Size n = 0; n < rows; ++n) std::copy_n(of_panel + n * width, width, &sum[n * lanes]);
            const auto pass = parts == 1 ? narrow_pass<Real, 1> : narrow_pass<Real, 2>;
            for (Size b = 0; b < batch; ++b) {
                for (Size t = 0; t < steps; ++t)
                    std::copy_n(inputs + (t * batch + b) * width, width, &x[t * lanes]);
                pass(
                    matrix + ((streams[b] * parts * gates + k) * units + begin) * width, part, sum.data(), !fresh[b],
                    boundary + b * parts * units + begin, decay + b * parts * parts * units + begin,
                    weighted + (b * parts * gates + k) * units + begin, batch * parts * gates * units, gates * units,
                    x.data(), steps, units, rows, width);
            }
            for (Size n = 0; n < rows; ++n) std::copy_n(&sum[n * lanes], width, of_panel + n * width);
            continue;
        }
        std::vector<Real> x(kSteps * padded), weights(kSteps * kBlock);
        for (Size b = 0; b < batch; ++b) {
            Real* s = matrix + ((streams[b] * parts * gates + k) * units + begin) * width;
            Real* sum = term + (k * units + begin) * width;
            const Real* by_state = boundary + b * parts * units + begin;
            const Real* factor = decay + b * parts * parts * units + begin;
            if (parts == 1) {
                contract_and_decay(s, sum, !fresh[b], by_state, factor, rows, width);
            } else {
                contract_and_mix(s, part, sum, !fresh[b], by_state, factor, units, rows, width);
            }
            for (Size first = 0; first < steps; first += kSteps) {
                const Size count = std::min(kSteps, steps - first);
                for (Size t = 0; t < count; ++t)
                    std::copy_n(inputs + ((first + t) * batch + b) * width, width, x.data() + t * padded);
                for (Size p = 0; p < parts; ++p) {
                    for (Size t = 0; t < count; ++t) {
                        const Size row = (((first + t) * batch + b) * parts + p) * gates + k;
                        std::copy_n(weighted + row * units + begin, rows, weights.data() + t * kBlock);
                    }
                    Real* of_part = s + p * part;
                    const Real* last = x.data() + width / lanes * lanes;
                    const auto add = [&](auto rows_at_once, Size n) {
                        multiply_rows<Real, decltype(rows_at_once)::value>(
                            {&weights[n], 1, kBlock}, x.data(), padded, last, padded, of_part + n * width, width, width,
                            count);
                    };
                    Size n = 0;
                    for (; n + kRows <= rows; n += kRows) add(std::integral_constant<int, kRows>(), n);
                    for (; n < rows; ++n) add(std::integral_constant<int, 1>(), n);
                }
            }
        }
    }
}

// The same for the vectors, which have one number where the matrix has a row: too little for a second thread.
template <class Real>
void vector_pass(
    Real* vectors, Real* term, const Size* streams, const bool* fresh, const Real* boundary, const Real* decay,
    const Real* gained, Size parts, Size batch, Size rows, Size units, int) {
    std::fill_n(term, rows * units, Real(0));
    const Size part = rows * units;
    for (Size row = 0; row < batch * rows; ++row) {
        const Size b = row / rows, l = row % rows;
        Real *s = vectors + (streams[b] * parts * rows + l) * units, *sum = term + l * units;
        const Real *by_state = boundary + b * parts * units, *factor = decay + b * parts * parts * units;
        const Real* gain = gained + (b * parts * rows + l) * units;
        const bool keep = !fresh[b];
        if (parts == 2) {
#pragma omp simd
            for (Size i = 0; i < units; ++i) {
                const Real first = keep ? s[i] : Real(0), second = keep ? s[part + i] : Real(0);
                sum[i] += by_state[i] * first + by_state[units + i] * second;
                s[i] = factor[i] * first + factor[units + i] * second + gain[i];
                s[part + i] = factor[2 * units + i] * first + factor[3 * units + i] * second + gain[part + i];
            }
            continue;
        }
#pragma omp simd
        for (Size i = 0; i < units; ++i) {
            const Real before = keep ? s[i] : Real(0);
            sum[i] += by_state[i] * before;
            s[i] = factor[i] * before + gain[i];
        }
    }
}

// V <- (V + steps) |D| of the batch's streams; fresh ones begin at 0. |D| is that of numbers or, of pairs, the root of
// |det D|.
template <class Real>
void horizon_pass(
    Real* through, const Size* streams, const bool* fresh, const Real* decay, Size steps, Size batch, Size units,
    Size parts) {
    for (Size b = 0; b < batch; ++b, decay += parts * parts * units) {
        Real* row = through + streams[b] * units;
        const Real *d01 = decay + units, *d10 = decay + 2 * units, *d11 = decay + 3 * units;
        if (fresh[b]) std::fill_n(row, units, Real(0));
#pragma omp simd
        for (Size i = 0; i < units; ++i) {
            const Real factor =
                parts == 1 ? std::fabs(decay[i]) : std::sqrt(std::fabs(decay[i] * d11[i] - d01[i] * d10[i]));
            row[i] = (row[i] + Real(steps)) * factor;
        }
    }
}

}  // namespace
