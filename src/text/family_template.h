// The chat format of a checkpoint that carries no template, where its vocabulary tells: control tokens that belong to one
// published format and to nothing else. A checkpoint without such tokens gets none: a guess would be worse than an error.
#pragma once

#include "text/tokenizer.h"

namespace nbl {

struct FamilyTemplate {
  const char* name;    // for `describe`
  const char* text;    // Jinja
};

// Null when the vocabulary says nothing.
const FamilyTemplate* family_template(const Tokenizer& tokenizer);

}  // namespace nbl
