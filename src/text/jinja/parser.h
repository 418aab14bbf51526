// Parser: tokens to the tree, by Jinja's grammar (see jinja.palletsprojects.com/templates). Its corners are kept: a filter
// binds tighter than a sign, `**` groups to the left, a conditional without else is undefined when it fails.
#pragma once

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace nbl::jinja {

Result<Block> parse_tokens(const std::vector<Token>& tokens, Names& names);

}  // namespace nbl::jinja
