// Matrix products in tiles that fill the registers.

#pragma once

#include <type_traits>

#include "native_blocks.h"

namespace {

constexpr Size kDepth = 128;  // steps of a product at a time, so that its factors stay in the L1 cache

// A tile of kRows x kColumns vectors fills the registers but for those of its factors.
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

// A matrix whose numbers lie `row` apart from row to row, and `column` from column to column.
template <class Real>
struct Strided {
    const Real* numbers;
    Size row, column;
};

// c += a b for R rows and C vectors of columns of c. The sum waits in registers while the steps of the product pass: it
// begins at 0, so that of many steps the sums of kDepth of them are summed up.
template <class Real, int R, int C>
inline void multiply_tile(Strided<Real> a, const Real* b, Size b_row, Real* c, Size c_row, Size steps) {
    using Vector = typename Lanes<Real>::Vector;
    constexpr Size lanes = Lanes<Real>::count;
    Vector sum[R][C] = {};
    for (Size t = 0; t < steps; ++t) {
        Vector row[C];
        std::memcpy(row, b + t * b_row, sizeof row);
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < C; ++j) sum[r][j] += a.numbers[r * a.row + t * a.column] * row[j];
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) {
            Vector whole;
            std::memcpy(&whole, c + r * c_row + j * lanes, sizeof whole);
            whole += sum[r][j];
            std::memcpy(c + r * c_row + j * lanes, &whole, sizeof whole);
        }
}

// The same for R whole rows; the last columns, fewer than a vector, are those of `edge`, filled up to a vector.
template <class Real, int R>
inline void multiply_rows(
    Strided<Real> a, const Real* b, Size b_row, const Real* edge, Size edge_row, Real* c, Size c_row, Size columns,
    Size steps) {
    constexpr Size lanes = Lanes<Real>::count;
    Size j = 0;
    for (; j + kColumns * lanes <= columns; j += kColumns * lanes)
        multiply_tile<Real, R, kColumns>(a, b + j, b_row, c + j, c_row, steps);
    for (; j + lanes <= columns; j += lanes) multiply_tile<Real, R, 1>(a, b + j, b_row, c + j, c_row, steps);
    if (j == columns) return;
    Real rest[R * lanes] = {};
    for (int r = 0; r < R; ++r) std::copy_n(c + r * c_row + j, columns - j, rest + r * lanes);
    multiply_tile<Real, R, 1>(a, edge, edge_row, rest, lanes, steps);
    for (int r = 0; r < R; ++r) std::copy_n(rest + r * lanes, columns - j, c + r * c_row + j);
}

// c [rows, columns] += a [rows, steps] b [steps, columns]; numbers of a row of b and c lie side by side.
template <class Real>
__attribute__((noinline)) void multiply(
    Strided<Real> a, const Real* b, Size b_row, Real* c, Size c_row, Size rows, Size columns, Size steps, int threads) {
    constexpr Size lanes = Lanes<Real>::count;
    const Size whole = columns / lanes * lanes;
    std::vector<Real> edge(whole < columns ? steps * lanes : 0);
    for (Size t = 0; t < steps && whole < columns; ++t)
        std::copy_n(b + t * b_row + whole, columns - whole, edge.data() + t * lanes);
    for (Size first = 0; first < steps; first += kDepth) {
        const Size count = std::min(kDepth, steps - first);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
        for (Size block = 0; block < (rows + kRows - 1) / kRows; ++block) {
            Size i = block * kRows;
            const Size end = std::min(rows, i + kRows);
            const auto run = [&](auto rows_of) {
                multiply_rows<Real, decltype(rows_of)::value>(
                    {a.numbers + i * a.row + first * a.column, a.row, a.column}, b + first * b_row, b_row,
                    edge.data() + first * lanes, lanes, c + i * c_row, c_row, columns, count);
                i += decltype(rows_of)::value;
            };
            if (i + kRows <= end) run(std::integral_constant<int, kRows>());
            while (i + 2 <= end) run(std::integral_constant<int, 2>());
            if (i < end) run(std::integral_constant<int, 1>());
        }
    }
}

}  // namespace
