// Work without the interpreter's lock.
#pragma once
#include <pybind11/pybind11.h>

#include "../parallel.hpp"

namespace gradstep::bindings {

// Lets other Python threads run while it lives.
//
// A daemon thread may come back when the interpreter has ended: then Python ends the thread by
// unwinding its stack, which aborts the process where it meets a destructor that may not throw, and
// would give back Python objects without the lock. So such a thread waits here until the process is
// gone, as from 3.14 on Python has it wait itself.
class Unlocked {
public:
    Unlocked() : state_(PyEval_SaveThread()) {}
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;
    ~Unlocked() noexcept(false) {
        if (is_finalizing()) parallel::wait_for_ever();
        PyEval_RestoreThread(state_);
    }

private:
    PyThreadState* state_;

    static bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
        return Py_IsFinalizing();
#else
        return _Py_IsFinalizing();
#endif
    }
};

}    // namespace gradstep::bindings
