// A small team of threads that shares loops: parallel(n, f) calls f(0) … f(n - 1), each once, on any of them.
//
// Who is late is not waited for: tasks are handed out one at a time, and the caller waits only for tasks that others
// have begun. So a core that another process took costs its own share, not the whole team's time. A worker spins for
// a moment after its last task, because the next loop is microseconds away, then sleeps: idle costs nothing.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <new>
#include <thread>
#include <vector>

static inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class ThreadTeam {
   public:
    explicit ThreadTeam(int num_threads) {
        try {
            for (int i = 1; i < num_threads; i++) threads_.emplace_back([this] { serve(); });
        } catch (...) {
            // The machine has no room for more: fewer threads compute the same.
        }
    }

    ~ThreadTeam() {
        stopping_.store(true);
        wake();
        for (std::thread& thread : threads_) thread.join();
    }

    int num_threads() const { return (int)threads_.size() + 1; }

    // Throws bad_alloc, in the caller's thread, when any task threw.
    template <typename F>
    void parallel(int num_tasks, F f) {
        if (threads_.empty() || num_tasks <= 1) {
            for (int i = 0; i < num_tasks; i++) f(i);
            return;
        }
        call_ = [](void* context, int task) { (*(F*)context)(task); };
        context_ = &f;
        num_tasks_ = num_tasks;
        next_.store(0, std::memory_order_relaxed);
        is_open_.store(true);
        wake();
        work();
        // From here on a worker that comes late finds the loop closed and does not touch `f`.
        is_open_.store(false);
        for (int spins = 0; num_working_.load() > 0; spins++) {
            if (spins < SPINS_BEFORE_YIELD)
                relax();
            else
                sched_yield();
        }
        if (has_failed_.exchange(false)) throw std::bad_alloc();
    }

   private:
    // A pause takes 10 to 50 ns: these are some 50 µs, and some 20 µs.
    static constexpr int SPINS_BEFORE_SLEEP = 2000;
    static constexpr int SPINS_BEFORE_YIELD = 1000;

    void wake() {
        epoch_.fetch_add(1);
        epoch_.notify_all();
    }

    void work() {
        try {
            for (int task = next_.fetch_add(1); task < num_tasks_; task = next_.fetch_add(1)) call_(context_, task);
        } catch (...) {
            has_failed_.store(true);
        }
    }

    void serve() {
#if defined(__linux__)
        pthread_setname_np(pthread_self(), "native-worker");
#endif
        int seen = 0;
        while (!stopping_.load()) {
            for (int spins = 0; epoch_.load() == seen && spins < SPINS_BEFORE_SLEEP; spins++) relax();
            epoch_.wait(seen);
            seen = epoch_.load();
            // First counted, then asked whether the loop is open: the caller does it the other way round.
            num_working_.fetch_add(1);
            if (is_open_.load()) work();
            num_working_.fetch_sub(1);
        }
    }

    std::vector<std::thread> threads_;
    void (*call_)(void*, int) = nullptr;
    void* context_ = nullptr;
    int num_tasks_ = 0;
    alignas(64) std::atomic<int> epoch_{0};
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<int> num_working_{0};
    std::atomic<bool> is_open_{false};
    std::atomic<bool> has_failed_{false};
    std::atomic<bool> stopping_{false};
};
