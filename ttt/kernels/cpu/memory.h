// Buffers of a kernel.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace ttt {

// Allocates aligned arrays that live as long as the arena.
template <class T>
class Arena {
  public:
    T* take(long numbers) {
        void* memory = std::aligned_alloc(64, (numbers * sizeof(T) + 63) / 64 * 64);
        if (!memory) throw std::bad_alloc();
        arrays.emplace_back(memory, &std::free);
        return static_cast<T*>(memory);
    }

  private:
    std::vector<std::unique_ptr<void, void (*)(void*)>> arrays;
};

}  // namespace ttt
