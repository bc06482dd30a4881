// What a call that can fail answers; library.py makes exceptions of it.
#pragma once

#include <cstdint>

enum Status : int32_t { OK = 0, NO_MEMORY = 1, OUT_OF_RANGE = 2 };
