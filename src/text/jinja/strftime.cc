#include "text/jinja/strftime.h"

#include <chrono>
#include <cstdint>
#include <ctime>

namespace nbl {
namespace {

const char* const kDays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
const char* const kMonths[] = {"January", "February", "March",     "April",   "May",      "June",
                               "July",    "August",   "September", "October", "November", "December"};
constexpr int kWidest = 1024;

bool leap(int year) { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0); }

// Days since 1970-01-01 of the proleptic Gregorian calendar, counted in years that begin in March.
int64_t days_since_epoch(int year, int month, int day) {
  const int64_t y = month <= 2 ? year - 1 : year;
  const int64_t era = (y >= 0 ? y : y - 399) / 400;
  const int64_t year_of_era = y - era * 400;
  const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

struct Calendar {
  explicit Calendar(const CivilTime& t)
      : time(t),
        days(days_since_epoch(t.year, t.month, t.day)),
        weekday(static_cast<int>(((days + 4) % 7 + 7) % 7)),
        year_day(static_cast<int>(days - days_since_epoch(t.year, 1, 1))) {}

  const CivilTime& time;
  int64_t days;
  int weekday;   // 0 is Sunday
  int year_day;  // from 0

  // ISO 8601: week 1 is the one with the year's first Thursday.
  void iso_week(int* year, int* week) const {
    const int monday_based = (weekday + 6) % 7;
    *year = time.year;
    *week = (year_day - monday_based + 10) / 7;
    if (*week < 1) {
      *year = time.year - 1;
      *week = weeks_in(*year);
    } else if (*week > weeks_in(time.year)) {
      *year = time.year + 1;
      *week = 1;
    }
  }

  static int weeks_in(int year) {
    const int64_t first = days_since_epoch(year, 1, 1);
    const int weekday_of_first = static_cast<int>(((first + 4) % 7 + 7) % 7);
    return weekday_of_first == 4 || (weekday_of_first == 3 && leap(year)) ? 53 : 52;
  }
};

struct Directive {
  char flag = 0;       // '-', '_', '0' say how to pad
  bool upper = false;  // ^
  bool swap = false;   // #
  int width = -1;
  char letter = 0;
};

void pad(std::string& out, std::string text, const Directive& d, char fill) {
  if (d.flag == '_') fill = ' ';
  if (d.flag == '0') fill = '0';
  if (d.width > static_cast<int>(text.size())) out.append(static_cast<size_t>(d.width) - text.size(), fill);
  out += text;
}

void number(std::string& out, int64_t value, int digits, char fill, const Directive& d) {
  std::string text = std::to_string(value);
  if (d.flag == '_') fill = ' ';
  if (d.flag == '0') fill = '0';
  if (d.flag != '-') {
    const int width = d.width > 0 ? d.width : digits;
    if (width > static_cast<int>(text.size())) text.insert(0, static_cast<size_t>(width) - text.size(), fill);
  }
  out += text;
}

void word(std::string& out, std::string text, const Directive& d, bool swap_lowers = false) {
  for (char& c : text) {
    const bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
    if (lower && (d.upper || (d.swap && !swap_lowers))) c = static_cast<char>(c - 32);
    if (upper && d.swap && swap_lowers) c = static_cast<char>(c + 32);
  }
  pad(out, std::move(text), d, ' ');
}

int hour_of_12(int hour) { return hour % 12 == 0 ? 12 : hour % 12; }

// The directives that stand for a format of others.
const char* expansion(char letter) {
  switch (letter) {
    case 'c': return "%a %b %e %H:%M:%S %Y";
    case 'D':
    case 'x': return "%m/%d/%y";
    case 'F': return "%Y-%m-%d";
    case 'r': return "%I:%M:%S %p";
    case 'R': return "%H:%M";
    case 'T':
    case 'X': return "%H:%M:%S";
    default: return nullptr;
  }
}

bool put_date(std::string& out, const Calendar& c, const Directive& d) {
  int iso_year, iso_week;
  c.iso_week(&iso_year, &iso_week);
  switch (d.letter) {
    case 'a': word(out, std::string(kDays[c.weekday], 3), d); return true;
    case 'A': word(out, kDays[c.weekday], d); return true;
    case 'b':
    case 'h': word(out, std::string(kMonths[c.time.month - 1], 3), d); return true;
    case 'B': word(out, kMonths[c.time.month - 1], d); return true;
    case 'C': number(out, c.time.year / 100, 2, '0', d); return true;
    case 'd': number(out, c.time.day, 2, '0', d); return true;
    case 'e': number(out, c.time.day, 2, ' ', d); return true;
    case 'g': number(out, iso_year % 100, 2, '0', d); return true;
    case 'G': number(out, iso_year, 4, '0', d); return true;
    case 'j': number(out, c.year_day + 1, 3, '0', d); return true;
    case 'm': number(out, c.time.month, 2, '0', d); return true;
    case 'u': number(out, c.weekday == 0 ? 7 : c.weekday, 1, '0', d); return true;
    case 'U': number(out, (c.year_day + 7 - c.weekday) / 7, 2, '0', d); return true;
    case 'V': number(out, iso_week, 2, '0', d); return true;
    case 'w': number(out, c.weekday, 1, '0', d); return true;
    case 'W': number(out, (c.year_day + 7 - (c.weekday + 6) % 7) / 7, 2, '0', d); return true;
    case 'y': number(out, c.time.year % 100, 2, '0', d); return true;
    case 'Y': number(out, c.time.year, 1, '0', d); return true;
    default: return false;
  }
}

bool put_time(std::string& out, const Calendar& c, const Directive& d) {
  const CivilTime& t = c.time;
  switch (d.letter) {
    case 'f': number(out, t.microsecond, 6, '0', Directive()); return true;
    case 'H': number(out, t.hour, 2, '0', d); return true;
    case 'I': number(out, hour_of_12(t.hour), 2, '0', d); return true;
    case 'k': number(out, t.hour, 2, ' ', d); return true;
    case 'l': number(out, hour_of_12(t.hour), 2, ' ', d); return true;
    case 'M': number(out, t.minute, 2, '0', d); return true;
    case 'n': out += '\n'; return true;
    case 'p': word(out, t.hour < 12 ? "AM" : "PM", d, true); return true;
    case 'P': word(out, t.hour < 12 ? "am" : "pm", d); return true;
    case 's': number(out, c.days * 86400 + t.hour * 3600 + t.minute * 60 + t.second, 1, '0', d); return true;
    case 'S': number(out, t.second, 2, '0', d); return true;
    case 't': out += '\t'; return true;
    case 'z':  // a moment without a zone has no name and no offset
    case 'Z': return true;
    case '%': out += '%'; return true;
    default: return false;
  }
}

// Reads what stands between '%' and the letter, which is at `at` afterwards; false at the end of the format.
bool read_directive(std::string_view format, size_t& at, Directive& d) {
  for (; at < format.size(); ++at) {
    const char c = format[at];
    if (c == '-' || c == '_' || c == '0') d.flag = c;
    else if (c == '^') d.upper = true;
    else if (c == '#') d.swap = true;
    else break;
  }
  for (; at < format.size() && format[at] >= '0' && format[at] <= '9'; ++at) {
    d.width = d.width < 0 ? format[at] - '0' : d.width * 10 + (format[at] - '0');
    if (d.width > kWidest) d.width = kWidest;
  }
  if (at < format.size() && (format[at] == 'E' || format[at] == 'O')) ++at;  // other numerals: none in the C locale
  if (at == format.size()) return false;
  d.letter = format[at];
  return true;
}

void put(std::string& out, std::string_view format, const Calendar& calendar) {
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const size_t start = i++;
    Directive d;
    const bool whole = read_directive(format, i, d);
    const char* longer = whole ? expansion(d.letter) : nullptr;
    if (longer) {
      std::string inner;
      put(inner, longer, calendar);
      word(out, inner, d);
    } else if (!whole || (!put_date(out, calendar, d) && !put_time(out, calendar, d))) {
      out.append(format.substr(start, i + 1 - start));
    }
  }
}

}  // namespace

CivilTime local_time_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t micros = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  const std::time_t seconds = static_cast<std::time_t>(micros / 1000000);
  std::tm local = {};
  localtime_r(&seconds, &local);
  return {local.tm_year + 1900, local.tm_mon + 1, local.tm_mday, local.tm_hour,
          local.tm_min,         local.tm_sec,     static_cast<int>(micros % 1000000)};
}

std::string format_time(std::string_view format, const CivilTime& time) {
  std::string out;
  put(out, format, Calendar(time));
  return out;
}

}  // namespace nbl
