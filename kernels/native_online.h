// A step of an agent of linear layers around an eLSTM, and what it learns from it; agents/online.py calls both.

#pragma once

#include "native_blocks.h"
#include "native_math.h"

namespace {

// y = W x + b with W [outputs, inputs]; no weight where the agent has no such layer.
template <class Real>
struct Linear {
    const Real *weight, *bias;
    Size inputs, outputs;

    void forward(const Real* x, Real* y) const {
        for (Size o = 0; o < outputs; ++o) {
            const Real* row = weight + o * inputs;
            Real sum = 0;
#pragma omp simd reduction(+ : sum)
            for (Size i = 0; i < inputs; ++i) sum += row[i] * x[i];
            y[o] = sum + bias[o];
        }
    }

    // by_x += W^T by_y for the inputs from `begin` on.
    void backward(const Real* by_y, Real* by_x, Size begin, Size count) const {
        for (Size o = 0; o < outputs; ++o) {
            const Real *row = weight + o * inputs + begin, factor = by_y[o];
#pragma omp simd
            for (Size i = 0; i < count; ++i) by_x[i] += factor * row[i];
        }
    }
};

// The core's input: the observation and the last reward, as they are normalised and bounded. Of the pointers the last is
// to the bounds of reward and observation, and the others are null where there is nothing to normalise by.
template <class Real>
struct InputReader {
    static constexpr Size arrays = 4;
    const Real *mean, *deviation, *reward_deviation;
    Real reward_bound, observation_bound;
    Size inputs;

    InputReader(const Real* const* given, Size inputs)
        : mean(given[0]), deviation(given[1]), reward_deviation(given[2]), reward_bound(given[3][0]),
          observation_bound(given[3][1]), inputs(inputs) {}

    Real transform(Real reward) const {
        return bounded(reward_deviation ? reward / *reward_deviation : reward, reward_bound);
    }

    void read(const Real* observation, Real reward, bool first, Real* x) const {
        for (Size i = 0; i + 1 < inputs; ++i)
            x[i] = mean ? bounded((observation[i] - mean[i]) / deviation[i], observation_bound) : observation[i];
        x[inputs - 1] = first ? Real(0) : transform(reward);
    }

    static Real bounded(Real x, Real bound) { return x > bound ? bound : x < -bound ? -bound : x; }
};

template <class Real>
struct OnlineAgent {
    Linear<Real> core, gate, hidden, policy, value;
    const Real* own;
    InputReader<Real> reader;
    Size inputs, units, read_size;
    bool skip;

    OnlineAgent(const Real* const* layers, Size inputs, Size units, Size hidden_size, Size logits, Size skip)
        : own(layers[1]), reader(layers + 11, inputs), inputs(inputs), units(units),
          read_size(units + (skip ? inputs : 0)), skip(skip) {
        const Size features = hidden_size ? hidden_size : read_size;
        core = {layers[0], layers[2], inputs, 2 * units};
        gate = {layers[3], layers[4], inputs + units, units};
        hidden = {layers[5], layers[6], read_size, hidden_size};
        policy = {layers[7], layers[8], features, logits};
        value = {layers[9], layers[10], features, 1};
    }
};

// What a step of one stream computes.
template <class Real>
struct Activations {
    std::vector<Real> gates, given, opening, read, hidden, logits;  // given: x and the state after the step
    Real value = 0;

    explicit Activations(const OnlineAgent<Real>& agent)
        : gates(2 * agent.units), given(agent.gate.inputs), opening(agent.units), read(agent.read_size),
          hidden(agent.hidden.outputs), logits(agent.policy.outputs) {}

    const Real* features() const { return hidden.empty() ? read.data() : hidden.data(); }

    void compute(
        const OnlineAgent<Real>& agent, const Real* observation, Real reward, bool first, const Real* previous,
        const bool* allowed) {
        const Size units = agent.units;
        Real *forget = gates.data(), *candidate = forget + units, *x = given.data(), *state = x + agent.inputs;
        Real* h = read.data();
        const Real* own = agent.own;
        agent.reader.read(observation, reward, first, x);
        agent.core.forward(x, forget);
#pragma omp simd
        for (Size i = 0; i < units; ++i) {
            forget[i] = sigmoid(forget[i] + own[i] * previous[i]);
            candidate[i] = hyperbolic_tangent(candidate[i] + own[units + i] * previous[i]);
            state[i] = forget[i] * previous[i] + (Real(1) - forget[i]) * candidate[i];
        }
        std::copy_n(state, units, h);
        if (agent.gate.weight) {
            agent.gate.forward(given.data(), opening.data());
#pragma omp simd
            for (Size i = 0; i < units; ++i) {
                opening[i] = sigmoid(opening[i]);
                h[i] = opening[i] * state[i];
            }
        }
        if (agent.skip) std::copy_n(x, agent.inputs, h + units);
        if (!hidden.empty()) {
            agent.hidden.forward(h, hidden.data());
            for (Real& each : hidden) each = each < Real(0) ? Real(0) : each;
        }
        agent.policy.forward(features(), logits.data());
        for (Size i = 0; allowed && i < agent.policy.outputs; ++i) logits[i] = allowed[i] ? logits[i] : Real(-1e9);
        agent.value.forward(features(), &value);
    }
};

// What the streams show in a step and after it, and how the agent learns from it.
template <class Real>
struct Online {
    const OnlineAgent<Real>& agent;
    const Real *observation, *final_observation, *state, *reward;
    const bool *first, *allowed, *truncated, *fresh;
    const Size *action, *streams, *sizes;
    Real *z, *weight, *vectors, *after;
    Size batch, parts, parameters;
    bool learns_policy;
    Real discount, decay, policy_cost, value_cost, entropy_cost;
};

// The gradient of the objective by the logits of one part of an action; returns the part's entropy.
template <class Real>
Real objective(const Real* logits, Size count, Size action, Real policy_cost, Real entropy_cost, Real* by_logits) {
    const Real most = *std::max_element(logits, logits + count);
    Real sum = 0, entropy = 0;
    for (Size i = 0; i < count; ++i) sum += std::exp(logits[i] - most);
    const Real normaliser = most + std::log(sum);
    for (Size i = 0; i < count; ++i) {
        const Real log_p = logits[i] - normaliser;
        entropy -= std::exp(log_p) * log_p;
    }
    for (Size i = 0; i < count; ++i) {
        const Real log_p = logits[i] - normaliser, p = std::exp(log_p);
        by_logits[i] = policy_cost * (Real(i == action) - p) - entropy_cost * p * (log_p + entropy);
    }
    return entropy;
}

// z <- fade z + g for the weights and then the biases of a layer; returns |z|_1 and moves z behind them.
template <class Real>
Real gather(const Linear<Real>& layer, const Real* by_output, const Real* input, Real fade, Real*& z) {
    Real size = 0;
    for (Size o = 0; o < layer.outputs; ++o, z += layer.inputs) {
        const Real factor = by_output[o];
#pragma omp simd reduction(+ : size)
        for (Size i = 0; i < layer.inputs; ++i) {
            z[i] = factor * input[i] + fade * z[i];
            size += std::fabs(z[i]);
        }
    }
    for (Size o = 0; o < layer.outputs; ++o, ++z) {
        *z = by_output[o] + fade * *z;
        size += std::fabs(*z);
    }
    return size;
}

// The same for one recurrent parameter or a row of them, with S, which goes across the step: S <- a S + u input.
template <class Real>
Real gather_recurrent(
    Real by_gate, Real by_state, Real a, Real u, const Real* input, Size count, bool keep, Real fade, Real* s, Real*& z) {
    Real size = 0;
#pragma omp simd reduction(+ : size)
    for (Size i = 0; i < count; ++i) {
        const Real before = s && keep ? s[i] : Real(0);
        z[i] = by_gate * input[i] + by_state * before + fade * z[i];
        size += std::fabs(z[i]);
        if (s) s[i] = a * before + u * input[i];
    }
    z += count;
    return size;
}

// One stream: its traces and sensitivities go across the step. Returns delta, the entropy and |z|_1.
template <class Real>
void learn_stream(const Online<Real>& step, Size b, Real& error, Real& entropy, Real& size) {
    const OnlineAgent<Real>& agent = step.agent;
    const Size units = agent.units, inputs = agent.inputs, logits = agent.policy.outputs, next_b = step.batch + b;
    const bool first = step.first[b], ends = step.first[next_b], cut = step.truncated && step.truncated[b];
    const std::vector<Real> zeros(units);
    const Real *previous = first ? zeros.data() : step.state + b * units, reward = step.reward[next_b];
    Activations<Real> now(agent);
    now.compute(
        agent, step.observation + b * (inputs - 1), step.reward[b], first, previous,
        step.allowed ? step.allowed + b * logits : nullptr);
    const Real *x = now.given.data(), *state = x + inputs;
    std::copy_n(state, units, step.after + b * units);
    Real following = 0;
    if (cut || !ends) {
        Activations<Real> next(agent);
        const Real* shown = cut ? step.final_observation + b * (inputs - 1) : step.observation + next_b * (inputs - 1);
        next.compute(agent, shown, reward, false, state, nullptr);
        following = next.value;
    }
    error = agent.reader.transform(reward) + step.discount * following - now.value;

    const Real sign = Real(error > 0) - Real(error < 0);
    std::vector<Real> by_logits(logits), by_features(agent.value.inputs), by_read(agent.read_size);
    entropy = 0;
    for (Size part = 0, start = 0; part < step.parts; start += step.sizes[part++])
        entropy += objective(
            now.logits.data() + start, step.sizes[part], step.action[b * step.parts + part], step.policy_cost,
            sign * step.entropy_cost, by_logits.data() + start);
    agent.policy.backward(by_logits.data(), by_features.data(), 0, agent.policy.inputs);
    agent.value.backward(&step.value_cost, by_features.data(), 0, agent.value.inputs);
    Real* by_h = by_features.data();
    if (!now.hidden.empty()) {
        for (Size i = 0; i < agent.hidden.outputs; ++i) by_features[i] = now.hidden[i] == 0 ? Real(0) : by_features[i];
        agent.hidden.backward(by_features.data(), by_read.data(), 0, agent.read_size);
        by_h = by_read.data();
    }
    std::vector<Real> by_opening(units), by_after(by_h, by_h + units);
    if (agent.gate.weight) {
        for (Size i = 0; i < units; ++i) {
            by_opening[i] = by_h[i] * now.read[i] * (Real(1) - now.opening[i]);
            by_after[i] = by_h[i] * now.opening[i];
        }
        agent.gate.backward(by_opening.data(), by_after.data(), inputs, units);
    }

    std::vector<Real> u(2 * units), jacobian(units);
    for (Size i = 0; i < units; ++i) {
        const Real f = now.gates[i], candidate = now.gates[units + i], keep = Real(1) - f;
        u[i] = (previous[i] - candidate) * f * keep;
        u[units + i] = keep * (Real(1) - candidate * candidate);
        jacobian[i] = first ? Real(0) : f + agent.own[i] * u[i] + agent.own[units + i] * u[units + i];
    }
    const Real fade = first ? Real(0) : step.decay, one = 1;
    const bool keeps = !(step.fresh && step.fresh[b]);
    const Size row = step.streams[b];
    Real* z = step.z + row * step.parameters;
    Real* s = step.weight ? step.weight + row * 2 * units * inputs : nullptr;
    size = 0;
    const auto take = [&](Size n, const Real* input, Size count) {
        const Size i = n % units;
        size += gather_recurrent(
            by_after[i] * u[n], by_after[i] * jacobian[i], jacobian[i], u[n], input, count, keeps, fade, s, z);
        if (s) s += count;
    };
    for (Size n = 0; n < 2 * units; ++n) take(n, x, inputs);
    s = step.vectors ? step.vectors + row * 4 * units : nullptr;
    for (Size n = 0; n < 2 * units; ++n) take(n, previous + n % units, 1);
    for (Size n = 0; n < 2 * units; ++n) take(n, &one, 1);
    if (agent.gate.weight) size += gather(agent.gate, by_opening.data(), now.given.data(), fade, z);
    if (!now.hidden.empty()) size += gather(agent.hidden, by_features.data(), now.read.data(), fade, z);
    if (step.learns_policy) size += gather(agent.policy, by_logits.data(), now.features(), fade, z);
    size += gather(agent.value, &step.value_cost, now.features(), fade, z);
}

// The gradients of all parameters by the traces of all streams, [parameters], and the sums over the streams of
// 0.5 delta^2, |delta|, the entropy and the scale of the step.
template <class Real>
void online_learn(
    const Real* const* layers, const Real* observation, const Real* final_observation, const Real* state,
    const bool* first, const Real* reward, const Size* action, const bool* allowed, const bool* truncated, const Size* streams,
    const bool* fresh, const Size* sizes, const Real* settings, Real* z, Real* weight, Real* vectors, Real* after,
    Real* sums, Real* gradient, Size batch, Size inputs, Size units, Size hidden_size, Size logits, Size skip,
    Size parts, Size parameters, Size learns_policy, int threads) {
    const OnlineAgent<Real> agent(layers, inputs, units, hidden_size, logits, skip);
    const Online<Real> step{
        agent, observation, final_observation, state, reward, first, allowed, truncated, fresh, action, streams, sizes,
        z, weight, vectors, after, batch, parts, parameters, learns_policy != 0, settings[0], settings[1], settings[2],
        settings[3], settings[4]};
    const Real step_size = settings[5], learners = settings[6];
    std::vector<Real> errors(batch), entropies(batch), shares(batch);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size b = 0; b < batch; ++b) learn_stream(step, b, errors[b], entropies[b], shares[b]);
    std::fill_n(sums, 4, Real(0));
    for (Size b = 0; b < batch; ++b) {
        const Real error = errors[b], distance = std::fabs(error);
        const Real scale = 1 / std::max(step_size * std::max(distance, Real(1)) * shares[b], Real(1));
        shares[b] = -scale * error / (Real(batch) * learners);
        sums[0] += Real(0.5) * error * error;
        sums[1] += distance;
        sums[2] += entropies[b];
        sums[3] += scale;
    }
    const Size blocks = blocks_of(parameters);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Size block = 0; block < blocks; ++block) {
        const Size begin = block * kBlock, end = std::min(parameters, begin + kBlock);
        std::fill(gradient + begin, gradient + end, Real(0));
        for (Size b = 0; b < batch; ++b) {
            const Real *row = z + streams[b] * parameters, share = shares[b];
#pragma omp simd
            for (Size i = begin; i < end; ++i) gradient[i] += share * row[i];
        }
    }
}

}  // namespace
