// strftime in the C locale, by hand: the process's locale must not change a prompt.
#pragma once

#include <string>
#include <string_view>

namespace nbl {

// A moment without a time zone, as datetime.now() gives it.
struct CivilTime {
  int year = 1970, month = 1, day = 1;  // month 1..12, day 1..31
  int hour = 0, minute = 0, second = 0;
  int microsecond = 0;
};

CivilTime local_time_now();

// The directives of glibc with their flags (%-d, %_d, %^a, %010Y ...) and Python's %f. What is none is left as it is.
std::string format_time(std::string_view format, const CivilTime& time);

}  // namespace nbl
