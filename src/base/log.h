// The log: silent until a level is set. Lines go to a callback, or wait in a short queue until somebody reads them.
#pragma once

#include <cstdint>
#include <string>

namespace nbl {

enum class LogLevel : int32_t { kOff = 0, kError = 1, kWarning = 2, kInfo = 3, kDebug = 4 };

using LogCallback = void (*)(int32_t level, const char* text, size_t length, void* user);

void set_log_level(int32_t level);
void set_log_callback(LogCallback callback, void* user);
bool log_wanted(LogLevel level);
void log_line(LogLevel level, std::string text);
// The oldest waiting line without taking it; false when none comes in time (timeout_ms < 0: waits for ever).
bool log_peek(int timeout_ms, int32_t* level, std::string* text);
// Lets go of the line that log_peek() gave, unless another reader has.
void log_take(const std::string& text);

}  // namespace nbl
