// Returns and losses of actor-critics whose actions are discrete; learner/algorithms has the readable forms.

#pragma once

#include "native_blocks.h"
#include "native_math.h"

namespace {

// Rows are taken so many at a time, one in each lane of a vector: of few actions a row alone would not fill one.
constexpr Size kLanes = 16;

template <class Real>
struct PolicyRows {
    Size actions;
    std::vector<Real> log_probs;  // [actions, kLanes]
    Real chosen[kLanes];  // log p of the action

    explicit PolicyRows(Size actions) : actions(actions), log_probs(actions * kLanes) {}

    // Of the rows from `begin` on; lanes beyond the last of them repeat it.
    void compute(const Real* logits, const std::int64_t* action, Size begin, Size width) {
        Real highest[kLanes], sum[kLanes] = {};
        for (Size i = 0; i < actions; ++i)
            for (Size lane = 0; lane < kLanes; ++lane)
                log_probs[i * kLanes + lane] = logits[(begin + std::min(lane, width - 1)) * actions + i];
        std::copy_n(log_probs.data(), kLanes, highest);
        for (Size i = 1; i < actions; ++i) {
            const Real* row = log_probs.data() + i * kLanes;
#pragma omp simd
            for (Size lane = 0; lane < kLanes; ++lane) highest[lane] = row[lane] > highest[lane] ? row[lane] : highest[lane];
        }
        for (Size i = 0; i < actions; ++i) {
            Real* row = log_probs.data() + i * kLanes;
#pragma omp simd
            for (Size lane = 0; lane < kLanes; ++lane) {
                row[lane] -= highest[lane];
                sum[lane] += exponential(row[lane]);
            }
        }
        for (Size lane = 0; lane < kLanes; ++lane) sum[lane] = std::log(sum[lane]);
        for (Size i = 0; i < actions; ++i) {
            Real* row = log_probs.data() + i * kLanes;
#pragma omp simd
            for (Size lane = 0; lane < kLanes; ++lane) row[lane] -= sum[lane];
        }
        for (Size lane = 0; lane < kLanes; ++lane)
            chosen[lane] = log_probs[action[begin + std::min(lane, width - 1)] * kLanes + lane];
    }
};

// log pi(a) - log mu(a) of rows of logits.
template <class Real>
void log_ratios(
    const Real* logits, const Real* behaviour, const std::int64_t* action, Real* ratios, Size rows, Size actions) {
    PolicyRows<Real> policy(actions), old(actions);
    for (Size begin = 0; begin < rows; begin += kLanes) {
        const Size width = std::min(kLanes, rows - begin);
        policy.compute(logits, action, begin, width);
        old.compute(behaviour, action, begin, width);
        for (Size lane = 0; lane < width; ++lane) ratios[begin + lane] = policy.chosen[lane] - old.chosen[lane];
    }
}

template <class Real>
Real bounded_above(Real x, Real bound) { return x > bound ? bound : x; }

// settings: the bounds clip_rho, clip_pg_rho, clip_c, and lambda.
template <class Real>
void vtrace(
    const Real* log_rhos, const Real* discounts, const Real* rewards, const Real* values, const Real* bootstrap,
    const Real* settings, Real* targets, Real* advantages, Size steps, Size batch, int) {
    const Real lambda = settings[3];
    for (Size row = steps * batch - 1; row >= 0; --row) {
        const bool last = row >= (steps - 1) * batch;
        const Real rho = std::exp(log_rhos[row]), value = values[row];
        const Real next_value = last ? bootstrap[row % batch] : values[row + batch];
        const Real next_target = last ? next_value : targets[row + batch];
        const Real delta = bounded_above(rho, settings[0]) * (rewards[row] + discounts[row] * next_value - value);
        const Real decay = discounts[row] * (lambda * bounded_above(rho, settings[2]));
        targets[row] = value + (last ? delta : delta + decay * (next_target - next_value));
        const Real mixed = last || lambda == 1 ? next_target : lambda * next_target + (1 - lambda) * next_value;
        advantages[row] = bounded_above(rho, settings[1]) * (rewards[row] + discounts[row] * mixed - value);
    }
}

// costs: of the baseline and of the entropy, then PPO's bounds of the ratio and of the value, infinite where there is
// none. With behaviour logits the policy's loss is PPO's, without them - log pi(a) A. sums: loss, policy, baseline,
// entropy, Schulman's estimate of KL(old || new), and the ratios that are clipped.
template <class Real>
void actor_critic_losses(
    const Real* logits, const Real* behaviour, const std::int64_t* action, const Real* values, const Real* old_values,
    const Real* advantages, const Real* targets, const Real* costs, Real* by_logits, Real* by_values, Real* sums,
    Size rows, Size actions, int) {
    const Real baseline_cost = costs[0], entropy_cost = costs[1], clip = costs[2], value_clip = costs[3];
    PolicyRows<Real> now(actions), old(actions);
    std::vector<Real> probs(actions * kLanes);
    double policy = 0, baseline = 0, bonus = 0, divergence = 0, clipped = 0;
    for (Size begin = 0; begin < rows; begin += kLanes) {
        const Size width = std::min(kLanes, rows - begin);
        Real entropy[kLanes] = {}, by_log_prob[kLanes];
        now.compute(logits, action, begin, width);
        if (behaviour) old.compute(behaviour, action, begin, width);
        for (Size i = 0; i < actions; ++i) {
            const Real* log_prob = now.log_probs.data() + i * kLanes;
            Real* prob = probs.data() + i * kLanes;
#pragma omp simd
            for (Size lane = 0; lane < kLanes; ++lane) {
                prob[lane] = exponential(log_prob[lane]);
                entropy[lane] -= prob[lane] * log_prob[lane];
            }
        }
        for (Size lane = 0; lane < width; ++lane) {
            const Real advantage = advantages[begin + lane];
            by_log_prob[lane] = -advantage;
            bonus += entropy[lane];
            if (!behaviour) {
                policy -= now.chosen[lane] * advantage;
                continue;
            }
            const Real log_ratio = now.chosen[lane] - old.chosen[lane], ratio = std::exp(log_ratio);
            const Real excess = ratio - 1;
            const Real bound = excess > clip ? 1 + clip : excess < -clip ? 1 - clip : ratio;
            const Real free = ratio * advantage, held = bound * advantage;
            policy -= held < free ? held : free;
            by_log_prob[lane] = held < free ? Real(0) : -free;
            divergence += excess - log_ratio;
            clipped += std::fabs(excess) > clip;
        }
        for (Size lane = 0; lane < width; ++lane) {
            Real* by = by_logits + (begin + lane) * actions;
            for (Size i = 0; i < actions; ++i) {
                const Size at = i * kLanes + lane;
                by[i] = probs[at] * (entropy_cost * (now.log_probs[at] + entropy[lane]) - by_log_prob[lane]);
            }
            by[action[begin + lane]] += by_log_prob[lane];
        }
    }
    for (Size row = 0; row < rows; ++row) {
        Real value = values[row], slope = 1;
        if (old_values) {
            const Real moved = value - old_values[row];
            slope = std::fabs(moved) > value_clip ? Real(0) : Real(1);
            value = moved > value_clip    ? old_values[row] + value_clip
                    : moved < -value_clip ? old_values[row] - value_clip
                                          : value;
        }
        const Real error = value - targets[row];
        baseline += 0.5 * error * error;
        by_values[row] = baseline_cost * slope * error;
    }
    const double loss = policy + baseline_cost * baseline - entropy_cost * bonus;
    const double found[] = {loss, policy, baseline, bonus, divergence, clipped};
    std::copy(std::begin(found), std::end(found), sums);
}

// V-trace's targets and advantages and the losses by them. settings: those of `vtrace`, then `costs`.
template <class Real>
void vtrace_losses(
    const Real* logits, const Real* behaviour, const std::int64_t* action, const Real* values, const Real* bootstrap,
    const Real* discounts, const Real* rewards, const Real* settings, Real* by_logits, Real* by_values, Real* sums,
    Size steps, Size batch, Size actions, int threads) {
    const Size rows = steps * batch;
    std::vector<Real> log_rhos(rows), targets(rows), advantages(rows);
    log_ratios(logits, behaviour, action, log_rhos.data(), rows, actions);
    vtrace(
        log_rhos.data(), discounts, rewards, values, bootstrap, settings, targets.data(), advantages.data(), steps,
        batch, threads);
    actor_critic_losses<Real>(
        logits, nullptr, action, values, nullptr, advantages.data(), targets.data(), settings + 4, by_logits, by_values,
        sums, rows, actions, threads);
}

}  // namespace
