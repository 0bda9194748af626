// A rollout of an agent of linear layers around recurrent cells side by side, and its gradient; agents/fused.py calls
// both. Rows are the steps of all streams, [T, B].

#pragma once

#include <utility>

#include "native_cells.h"
#include "native_layers.h"
#include "native_online.h"
#include "native_passes.h"

namespace {

// What an agent needs to know of a cell, in the order of CELLS_WITH_SCANS in native_library.py.
template <class Real>
struct CellKernels {
    Size gates, own, own_arrays, parts;
    decltype(&cell_forward<Real, ELSTM>) forward;
    decltype(&cell_backward<Real, ELSTM>) backward;

    template <template <class> class Cell>
    static CellKernels of() {
        using C = Cell<Real>;
        return {C::gates, C::own, C::own_arrays, C::parts, &cell_forward<Real, Cell>, &cell_backward<Real, Cell>};
    }
    static CellKernels number(Size cell) {
        const CellKernels all[] = {of<ELSTM>(), of<LRU>(), of<MinGRU>(), of<Rotation>()};
        return all[cell];
    }
};

// A cell with its weights, what RTRL keeps of it, and where its metrics are noted; null where there is no such thing.
// Takes what it is made of from `given`, which moves on.
template <class Real>
struct CorePart {
    CellKernels<Real> cell;
    Size units, state_size, gates_size, begin;  // begin: of its state among those of all
    const Real* weight;
    std::vector<Real> own;
    const Real *bias, *gate, *gate_bias;
    Real *matrix, *vectors, *through, *boundary, *term;

    CorePart(const Real* const*& given, Size number, Size units, Size begin)
        : cell(CellKernels<Real>::number(number)), units(units), state_size(cell.parts * units),
          gates_size(cell.gates * units), begin(begin) {
        const auto take = [&] { return const_cast<Real*>(*given++); };
        weight = take();
        for (Size array = 0; array < cell.own_arrays; ++array) {
            const Real* numbers = take();
            own.insert(own.end(), numbers, numbers + cell.own / cell.own_arrays * units);
        }
        bias = take(), gate = take(), gate_bias = take();
        matrix = take(), vectors = take(), through = take(), boundary = take(), term = take();
    }

    Size vector_count() const { return (cell.own + cell.gates) * units; }
    std::unique_ptr<Real[]> state_of(const Real* all, Size batch, Size size) const {
        auto own_state = room<Real>(batch * state_size);
        for (Size b = 0; b < batch; ++b) std::copy_n(all + b * size + begin, state_size, &own_state[b * state_size]);
        return own_state;
    }
};

// What the backward pass reads of one part, and what it has of the rows.
template <class Real>
struct PartRows {
    Real *projection, *states, *opening;
};

template <class Real>
struct RolloutAgent {
    std::vector<CorePart<Real>> parts;
    const Real *hidden, *hidden_bias, *policy, *policy_bias, *value, *value_bias;
    InputReader<Real> reader;
    Size inputs, state_size = 0, hidden_size, logits;
    bool skip, layer_norm;

    RolloutAgent(
        const Real* const* layers, const Size* cells, Size count, Size inputs, Size hidden_size, Size logits, bool skip,
        bool layer_norm)
        : hidden(layers[0]), hidden_bias(layers[1]), policy(layers[2]), policy_bias(layers[3]), value(layers[4]),
          value_bias(layers[5]), reader(layers + 6, inputs), inputs(inputs), hidden_size(hidden_size), logits(logits),
          skip(skip), layer_norm(layer_norm) {
        layers += 6 + InputReader<Real>::arrays;
        for (Size p = 0; p < count; ++p) {
            parts.emplace_back(layers, cells[2 * p], cells[2 * p + 1], state_size);
            state_size += parts.back().state_size;
        }
    }

    Size read_size() const { return state_size + (skip ? inputs : 0); }
    Size features() const { return hidden_size ? hidden_size : read_size(); }
};

// What a pass keeps for the gradient.
template <class Real>
struct SavedRows {
    Real *x, *h, *scales, *hidden;
    std::vector<PartRows<Real>> parts;

    SavedRows(const RolloutAgent<Real>& agent, Size rows, Real* saved) {
        const auto take = [&](Size width) { return std::exchange(saved, saved + rows * width); };
        x = take(agent.inputs);
        for (const auto& part : agent.parts) {
            Real *projection = take(part.gates_size), *states = take(part.state_size);
            parts.push_back({projection, states, part.gate ? take(part.state_size) : nullptr});
        }
        h = take(agent.state_size);
        scales = take(agent.layer_norm);
        hidden = take(agent.hidden_size);
    }
};

// Policy and value as one layer, [logits + 1, features].
template <class Real>
struct Heads {
    Size outputs, features;
    std::unique_ptr<Real[]> weight, bias;

    explicit Heads(const RolloutAgent<Real>& agent)
        : outputs(agent.logits + 1), features(agent.features()), weight(room<Real>(outputs * features)),
          bias(room<Real>(outputs)) {
        std::copy_n(agent.policy, agent.logits * features, weight.get());
        std::copy_n(agent.value, features, weight.get() + agent.logits * features);
        std::copy_n(agent.policy_bias, agent.logits, bias.get());
        bias[agent.logits] = agent.value_bias[0];
    }
};

// The read-out's layers read h and, with skip, x; `run` is given them.
template <class Real, class Run>
void with_read(const RolloutAgent<Real>& agent, const SavedRows<Real>& at, const Run& run) {
    if (agent.skip) {
        run({{at.h, agent.state_size}, {at.x, agent.inputs}});
    } else {
        run({{at.h, agent.state_size}});
    }
}

// Steps beyond `steps`, 0 or 1, give a value alone, `last`.
template <class Real>
void agent_forward(
    const Real* const* layers, Real* given_logits, const Size* cells, const Real* observation, const Real* reward,
    const bool* is_first, const Real* state, Real* saved, Real* values, Real* last, Real* after, Size count, Size steps,
    Size beyond, Size batch, Size inputs, Size hidden_size, Size logits, Size skip, Size layer_norm, int threads) {
    const RolloutAgent<Real> agent(layers, cells, count, inputs, hidden_size, logits, skip, layer_norm);
    const Size rows = (steps + beyond) * batch, size = agent.state_size;
    const SavedRows<Real> at(agent, rows, saved);
    for (Size row = 0; row < rows; ++row)
        agent.reader.read(observation + row * (inputs - 1), reward[row], is_first[row], at.x + row * inputs);
    for (Size p = 0; p < count; ++p) {
        const auto& part = agent.parts[p];
        const auto [projection, states, opening] = at.parts[p];
        const auto before = part.state_of(state, batch, size);
        linear<Real>({{at.x, inputs}}, part.weight, nullptr, projection, rows, part.gates_size, threads);
        part.cell.forward(
            projection, part.own.data(), part.bias, before.get(), is_first, states, steps + beyond, batch, part.units,
            threads);
        const Size width = part.state_size;
        if (part.gate)
            linear<Real>(
                {{at.x, inputs}, {states, width}}, part.gate, part.gate_bias, opening, rows, width, threads);
        for (Size row = 0; row < rows; ++row) {
            Real *h = at.h + row * size + part.begin, *open = part.gate ? opening + row * width : nullptr;
            const Real* c = states + row * width;
            if (!part.gate) {
                std::copy_n(c, width, h);
                continue;
            }
#pragma omp simd
            for (Size i = 0; i < width; ++i) {
                open[i] = sigmoid(open[i]);
                h[i] = open[i] * c[i];
            }
        }
        for (Size b = 0; b < batch; ++b)
            std::copy_n(states + ((steps - 1) * batch + b) * width, width, after + b * size + part.begin);
    }
    if (layer_norm) normalise(at.h, at.scales, rows, size);
    if (hidden_size) {
        with_read(agent, at, [&](std::initializer_list<Inputs<Real>> read) {
            linear(read, agent.hidden, agent.hidden_bias, at.hidden, rows, hidden_size, threads);
        });
        for (Size i = 0; i < rows * hidden_size; ++i) at.hidden[i] = at.hidden[i] < Real(0) ? Real(0) : at.hidden[i];
    }
    const Heads<Real> heads(agent);
    const auto y = room<Real>(rows * heads.outputs);
    const auto run = [&](std::initializer_list<Inputs<Real>> features) {
        linear(features, heads.weight.get(), heads.bias.get(), y.get(), rows, heads.outputs, threads);
    };
    if (hidden_size) {
        run({{at.hidden, hidden_size}});
    } else {
        with_read(agent, at, run);
    }
    for (Size row = 0; row < rows; ++row) {
        const Real* of_row = y.get() + row * heads.outputs;
        if (row >= steps * batch) {
            last[row - steps * batch] = of_row[logits];
            continue;
        }
        std::copy_n(of_row, logits, given_logits + row * logits);
        values[row] = of_row[logits];
    }
}

// A step: logits, of which those that the mask forbids are replaced, and of each of an action's `drawn` parts the choice
// at which the cumulative probability exceeds the uniform number. The state is changed in place. mask: null where all
// is allowed.
template <class Real>
void agent_act(
    const Real* const* layers, const Size* cells, const Size* choices, Real* state, Real* saved, Real* values,
    Real* given_logits, const Real* observation, const Real* reward, const bool* is_first, const bool* mask,
    const double* uniforms, std::int64_t* action, Size count, Size batch, Size inputs, Size hidden_size, Size logits,
    Size skip, Size layer_norm, Size drawn, int threads) {
    agent_forward<Real>(
        layers, given_logits, cells, observation, reward, is_first, state, saved, values, nullptr, state, count, 1, 0,
        batch, inputs, hidden_size, logits, skip, layer_norm, threads);
    for (Size i = 0; mask && i < batch * logits; ++i) given_logits[i] = mask[i] ? given_logits[i] : Real(-1e9);
    std::vector<double> cumulative(logits);
    for (Size row = 0; row < batch * drawn; ++row) {
        const Size last = choices[row % drawn] - 1;
        const Real highest = *std::max_element(given_logits, given_logits + last + 1);
        double sum = 0;
        for (Size i = 0; i <= last; ++i)
            cumulative[i] = sum += std::exp(static_cast<double>(given_logits[i] - highest));
        action[row] = 0;
        while (action[row] < last && cumulative[action[row]] <= uniforms[row] * sum) ++action[row];
        given_logits += last + 1;
    }
}

// The part's gradient from that by its output, whose rows lie `size` apart; returns where the next one's begins.
template <class Real>
Real* part_gradient(
    const CorePart<Real>& part, const PartRows<Real>& at, const Real* x, const Real* by_h, Size size,
    const bool* is_first, const Real* state, const Size* streams, const bool* fresh, bool advance, Real* gradient,
    Size steps, Size batch, Size inputs, int threads) {
    const Size rows = steps * batch, width = part.state_size, vectors = part.vector_count();
    Real *by_weight = gradient, *by_vectors = by_weight + part.gates_size * inputs, *by_gate = by_vectors + vectors;
    Real* next = by_gate;
    const auto direct = room<Real>(rows * width);
    if (part.gate) {
        const auto by_opening = room<Real>(rows * width);
        for (Size row = 0; row < rows; ++row) {
            const Real *by = by_h + row * size + part.begin, *open = at.opening + row * width;
            const Real* c = at.states + row * width;
#pragma omp simd
            for (Size i = 0; i < width; ++i) {
                by_opening[row * width + i] = by[i] * c[i] * open[i] * (Real(1) - open[i]);
                direct[row * width + i] = by[i] * open[i];
            }
        }
        Real* by_gate_bias = by_gate + width * (inputs + width);
        linear_gradient<Real>(
            {{x, inputs}, {at.states, width}}, by_opening.get(), by_gate, by_gate_bias, rows, width, threads);
        add_input_gradient(
            by_opening.get(), part.gate + inputs, inputs + width, direct.get(), rows, width, width, threads);
        next = by_gate_bias + width;
    } else {
        for (Size row = 0; row < rows; ++row)
            std::copy_n(by_h + row * size + part.begin, width, &direct[row * width]);
    }
    const Size parts = part.cell.parts, of_decay = batch * parts * width;
    const bool jumps = part.matrix && advance;
    const auto by_projection = room<Real>(rows * part.gates_size), by_stream = room<Real>(batch * vectors);
    const auto own_boundary = room<Real>(batch * width), decay = room<Real>(of_decay);
    const auto weighted = room<Real>(jumps ? rows * parts * part.gates_size : 0);
    const auto gained = room<Real>(batch * parts * vectors);
    Real* boundary = part.boundary ? part.boundary : own_boundary.get();
    part.cell.backward(
        direct.get(), at.projection, part.own.data(), part.bias, at.states, state, is_first, by_projection.get(),
        by_vectors, by_stream.get(), boundary, jumps ? decay.get() : nullptr, jumps ? weighted.get() : nullptr,
        jumps ? gained.get() : nullptr, steps, batch, part.units, threads);
    linear_gradient<Real>({{x, inputs}}, by_projection.get(), by_weight, nullptr, rows, part.gates_size, threads);
    if (!part.matrix) return next;
    if (!jumps) {
        // The pass of a rollout of no steps: S stays as it is.
        std::fill_n(gained.get(), batch * parts * vectors, Real(0));
        for (Size i = 0; i < of_decay; ++i) decay[i] = i / part.units % (parts * parts) % (parts + 1) == 0;
    }
    const Size of_weight = part.gates_size * inputs;
    const auto own_term = room<Real>(of_weight + vectors);
    Real* term = part.term ? part.term : own_term.get();
    std::fill_n(term, of_weight, Real(0));
    sensitivity_pass(
        part.matrix, term, streams, fresh, boundary, decay.get(), weighted.get(), x, parts, jumps ? steps : Size(0), batch,
        part.cell.gates, part.units, inputs, threads);
    vector_pass(
        part.vectors, term + of_weight, streams, fresh, boundary, decay.get(), gained.get(), parts, batch,
        part.cell.own + part.cell.gates, part.units, threads);
    if (part.through && jumps) horizon_pass(part.through, streams, fresh, decay.get(), steps, batch, part.units, parts);
    for (Size i = 0; i < of_weight + vectors; ++i) gradient[i] += term[i];
    return next;
}

// gradient: by all layers in their order, without gaps.
template <class Real>
void agent_backward(
    const Real* const* layers, const Real* by_logits, const Real* by_values, const Size* cells, const bool* is_first,
    const Real* state, Real* saved, const Size* streams, const bool* fresh, Real* gradient, Size count, Size steps,
    Size beyond, Size batch, Size inputs, Size hidden_size, Size logits, Size skip, Size layer_norm, Size advance,
    int threads) {
    const RolloutAgent<Real> agent(layers, cells, count, inputs, hidden_size, logits, skip, layer_norm);
    const SavedRows<Real> at(agent, (steps + beyond) * batch, saved);
    const Heads<Real> heads(agent);
    const Size rows = steps * batch, size = agent.state_size, outputs = heads.outputs, features = heads.features;
    const auto by_y = room<Real>(rows * outputs), by_heads = room<Real>(outputs * (features + 1));
    for (Size row = 0; row < rows; ++row) {
        std::copy_n(by_logits + row * logits, logits, &by_y[row * outputs]);
        by_y[row * outputs + logits] = by_values[row];
    }
    const auto of_heads = [&](std::initializer_list<Inputs<Real>> read) {
        linear_gradient(read, by_y.get(), by_heads.get(), &by_heads[outputs * features], rows, outputs, threads);
    };
    const auto by_h = room<Real>(rows * size);
    const auto by_hidden = room<Real>(rows * hidden_size), of_hidden = room<Real>(hidden_size * (agent.read_size() + 1));
    std::fill_n(by_h.get(), rows * size, Real(0));
    if (hidden_size) {
        of_heads({{at.hidden, hidden_size}});
        std::fill_n(by_hidden.get(), rows * hidden_size, Real(0));
        add_input_gradient(by_y.get(), heads.weight.get(), features, by_hidden.get(), rows, features, outputs, threads);
        for (Size i = 0; i < rows * hidden_size; ++i) by_hidden[i] = at.hidden[i] > Real(0) ? by_hidden[i] : Real(0);
        with_read(agent, at, [&](std::initializer_list<Inputs<Real>> read) {
            linear_gradient(
                read, by_hidden.get(), of_hidden.get(), &of_hidden[hidden_size * agent.read_size()], rows, hidden_size,
                threads);
        });
        add_input_gradient(
            by_hidden.get(), agent.hidden, agent.read_size(), by_h.get(), rows, size, hidden_size, threads);
    } else {
        with_read(agent, at, of_heads);
        add_input_gradient(by_y.get(), heads.weight.get(), features, by_h.get(), rows, size, outputs, threads);
    }
    if (layer_norm) normalised_gradient(at.h, at.scales, by_h.get(), rows, size);
    for (Size p = 0; p < count; ++p) {
        const auto before = agent.parts[p].state_of(state, batch, size);
        gradient = part_gradient(
            agent.parts[p], at.parts[p], at.x, by_h.get(), size, is_first, before.get(), streams, fresh, advance,
            gradient, steps, batch, inputs, threads);
    }
    gradient = std::copy_n(of_hidden.get(), hidden_size * (agent.read_size() + 1), gradient);
    const Real *biases = &by_heads[outputs * features], *of_value = &by_heads[logits * features];
    gradient = std::copy_n(by_heads.get(), logits * features, gradient);
    gradient = std::copy_n(biases, logits, gradient);
    gradient = std::copy_n(of_value, features, gradient);
    *gradient = biases[logits];
}

}  // namespace
