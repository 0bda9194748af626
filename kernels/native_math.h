// exp, tanh and the logistic function in a form that compilers turn into vector instructions.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

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

}  // namespace
