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

// What a narrow pass is given: its first row is row 0. x: the inputs, [steps, batch, width], and a vector more.
template <class Real>
struct NarrowPass {
    Real *matrix, *term;
    const Size* streams;
    const bool* fresh;
    const Real *boundary, *decay, *weighted, *x;
    Size steps, batch, gates, units, rows, width;
};

// Rows n to n + R through all streams, each computed as a vector of L lanes. Lanes beyond a row hold numbers of the row
// behind and mean nothing: rows are written in their order, so that the next one overwrites them, and the last one with
// what was behind it. Why `of` is no reference: its fields would be read again after each write.
template <class Real, int parts, int L, int R>
void narrow_rows(const NarrowPass<Real> of, Size n) {
    typedef Real Vector __attribute__((vector_size(L * sizeof(Real))));
    const Size width = of.width, units = of.units, next_part = of.gates * units, next_stream = parts * next_part;
    // Behind the last rows are another thread's, or nothing.
    const bool inside = (n + R - 1) * width + L <= of.rows * width;
    Real room[parts * R * L] = {};
    const Size part = inside ? next_part * width : R * L;
    Vector sum[R] = {};
    for (Size b = 0; b < of.batch; ++b) {
        Real *kept = of.matrix + of.streams[b] * next_stream * width + n * width, *s = inside ? kept : room;
        for (int p = 0; p < parts && !inside; ++p) std::copy_n(kept + p * next_part * width, R * width, s + p * part);
        Vector row[parts][R] = {}, behind[parts];
        for (int p = 0; p < parts; ++p) std::memcpy(&behind[p], s + p * part + (R - 1) * width, sizeof behind[p]);
        const Real *boundary = of.boundary + b * parts * units + n, *decay = of.decay + b * parts * parts * units + n;
        for (int r = 0; r < R && !of.fresh[b]; ++r)
            for (int q = 0; q < parts; ++q) {
                Vector before;
                std::memcpy(&before, s + q * part + r * width, sizeof before);
                sum[r] += boundary[q * units + r] * before;
                for (int p = 0; p < parts; ++p) row[p][r] += decay[(p * parts + q) * units + r] * before;
            }
        const Real *weighted = of.weighted + b * next_stream + n, *x = of.x + b * width;
        for (Size t = 0; t < of.steps; ++t, weighted += of.batch * next_stream, x += of.batch * width) {
            Vector step;
            std::memcpy(&step, x, sizeof step);
            for (int p = 0; p < parts; ++p)
                for (int r = 0; r < R; ++r) row[p][r] += weighted[p * next_part + r] * step;
        }
        for (int p = 0; p < parts; ++p) {
            for (int i = 0; i < L; ++i) row[p][R - 1][i] = i < width ? row[p][R - 1][i] : behind[p][i];
            for (int r = 0; r < R; ++r) std::memcpy(s + p * part + r * width, &row[p][r], sizeof row[p][r]);
            if (!inside) std::copy_n(s + p * part, R * width, kept + p * next_part * width);
        }
    }
    for (int r = 0; r < R; ++r)
        for (Size d = 0; d < width; ++d) of.term[(n + r) * width + d] += sum[r][d];
}

// Boundary contraction and jump of some rows of one gate. As many at a time as fill the registers with their sums: 16 are
// also a line of the cache of `weighted`. What is left is as many at a time as elsewhere: a row's bits then do not depend
// on where the rows of a thread begin.
template <class Real, int parts, int L>
void narrow_pass(const NarrowPass<Real>& of) {
    constexpr int R = parts == 1 && kVectorBytes == 64 ? 2 * kRows : kRows;
    Size n = 0;
    for (; n + R <= of.rows; n += R) narrow_rows<Real, parts, L, R>(of, n);
    for (; n + kRows <= of.rows; n += kRows) narrow_rows<Real, parts, L, kRows>(of, n);
    for (; n < of.rows; ++n) narrow_rows<Real, parts, L, 1>(of, n);
}

// The narrow pass of the fewest lanes that hold a row; none where a row is wider than a vector.
template <class Real>
auto narrow_pass_of(Size parts, Size width) -> void (*)(const NarrowPass<Real>&) {
    constexpr int lanes = Lanes<Real>::count, half = std::max(lanes / 2, 2), quarter = std::max(lanes / 4, 2);
    if (width > lanes) return nullptr;
    if (width <= quarter) return parts == 1 ? narrow_pass<Real, 1, quarter> : narrow_pass<Real, 2, quarter>;
    if (width <= half) return parts == 1 ? narrow_pass<Real, 1, half> : narrow_pass<Real, 2, half>;
    return parts == 1 ? narrow_pass<Real, 1, lanes> : narrow_pass<Real, 2, lanes>;
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
    const auto narrow = narrow_pass_of<Real>(parts, width);
    std::vector<Real> narrow_x(narrow ? steps * batch * width + lanes : 0);
    if (narrow) std::copy_n(inputs, steps * batch * width, narrow_x.data());
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size item = 0; item < gates * panels; ++item) {
        const Size k = item / panels, begin = item % panels * panel, rows = std::min(panel, units - begin);
        if (narrow) {
            const Size first = k * units + begin;
            narrow(
                {matrix + first * width, term + first * width, streams, fresh, boundary + begin, decay + begin,
                 weighted + first, narrow_x.data(), steps, batch, gates, units, rows, width});
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
