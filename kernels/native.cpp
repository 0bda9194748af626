// The kernels for CPUs; native_library.py compiles and loads this, native.py calls it.
//
// All arrays are contiguous. Work is dealt out in blocks of a fixed number of units of one stream: a unit's result
// then does not depend on the number of threads, and what a block sums over the steps stays in the L1 cache.
// Comparisons are written so that NaN passes: the learner detects divergence by it.

#include "native_agent.h"
#include "native_cells.h"
#include "native_losses.h"
#include "native_moments.h"
#include "native_online.h"
#include "native_passes.h"
#include "native_scans.h"

// Each function by its address, in one precision: native_library.py compiles this for REAL float or double. Arrays come
// first, then sizes, then the number of threads; native_library.py declares the same.
#define R2AC_EXPORT(function) \
    extern "C" void* function##_address = reinterpret_cast<void*>(&function<REAL>);

// The scans of a cell, under its name.
#define R2AC_EXPORT_CELL(name, Cell)                                                                  \
    extern "C" {                                                                                      \
    void* name##_forward_address = reinterpret_cast<void*>(&cell_forward<REAL, Cell>);                \
    void* name##_backward_address = reinterpret_cast<void*>(&cell_backward<REAL, Cell>);              \
    }

R2AC_EXPORT_CELL(elstm, ELSTM)
R2AC_EXPORT_CELL(lru, LRU)
R2AC_EXPORT_CELL(mingru, MinGRU)
R2AC_EXPORT_CELL(rotation, Rotation)
R2AC_EXPORT(backward_scan)
R2AC_EXPORT(linear_forward)
R2AC_EXPORT(linear_reverse)
R2AC_EXPORT(sensitivity_pass)
R2AC_EXPORT(vector_pass)
R2AC_EXPORT(agent_forward)
R2AC_EXPORT(agent_act)
R2AC_EXPORT(agent_backward)
R2AC_EXPORT(vtrace)
R2AC_EXPORT(vtrace_losses)
R2AC_EXPORT(actor_critic_losses)
R2AC_EXPORT(observe_vectors)
R2AC_EXPORT(observe_returns)
R2AC_EXPORT(online_learn)
