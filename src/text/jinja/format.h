// 'text %s' % values and 'text {}'.format(values), with Python's format specifications.
#pragma once

#include "text/jinja/arguments.h"

namespace nbl::jinja {

// `values` is a tuple, a dict (for %(name)s) or one value.
Result<Value> percent_format(Runtime& rt, const Value& format, const Value& values);
Result<Value> brace_format(Runtime& rt, const Value& format, const Arguments& arguments);

// `text` in a field of `width` code points. `align` is one of < > ^; an odd one out goes where str.center puts it when
// `as_center` is set.
Result<std::string> padded(Runtime& rt, std::string_view text, Int width, std::string_view fill, char align,
                           bool as_center = false);

}  // namespace nbl::jinja
