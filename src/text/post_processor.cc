#include "text/post_processor.h"

#include "text/step.h"
#include "text/vocabulary.h"

namespace nbl {
namespace {

Result<int32_t> token_id(const Json& value, const std::string& owner) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kLargestTokenId) {
    return error(Code::kFormat, "%s has a token id that is no whole number from 0 to %lld", owner.c_str(),
                 static_cast<long long>(kLargestTokenId));
  }
  return static_cast<int32_t>(value.get<int64_t>());
}

// ["</s>", 2]
Result<int32_t> token_pair(const Json& step, const char* key, const std::string& owner) {
  NBL_ASSIGN_OR_RETURN(const Json* pair, required_list(step, key, owner));
  if (pair->size() != 2) return error(Code::kFormat, "%s needs \"%s\" as a token and its id", owner.c_str(), key);
  return token_id((*pair)[1], owner);
}

Status add_special(const Json& step, const Json& item, std::vector<int32_t>& out) {
  const std::string owner = "TemplateProcessing";
  NBL_ASSIGN_OR_RETURN(const std::string name, required_str(item, "id", owner));
  const auto tokens = step.find("special_tokens");
  const auto found = tokens == step.end() || !tokens->is_object() ? Json::const_iterator() : tokens->find(name);
  if (tokens == step.end() || !tokens->is_object() || found == tokens->end()) {
    return error(Code::kFormat, "TemplateProcessing uses \"%s\", which its special_tokens do not define", name.c_str());
  }
  NBL_ASSIGN_OR_RETURN(const Json* ids, required_list(*found, "ids", owner));
  for (const Json& id : *ids) {
    NBL_ASSIGN_OR_RETURN(const int32_t value, token_id(id, owner));
    out.push_back(value);
  }
  return {};
}

Status add_template(const Json& step, PostProcessor& out) {
  NBL_ASSIGN_OR_RETURN(const Json* single, required_list(step, "single", "TemplateProcessing"));
  PostProcessor own;
  size_t texts = 0;
  for (const Json& item : *single) {
    if (item.is_object() && item.size() == 1 && item.begin().key() == "Sequence") {
      ++texts;
    } else if (item.is_object() && item.size() == 1 && item.begin().key() == "SpecialToken") {
      NBL_RETURN_IF_ERROR(add_special(step, item.front(), texts ? own.after : own.before));
    } else {
      return error(Code::kUnsupported, "TemplateProcessing has %s, expected a Sequence or a SpecialToken", to_text(item).c_str());
    }
  }
  if (texts != 1) {
    return error(Code::kUnsupported, "TemplateProcessing repeats or drops the text (%zu sequences in \"single\")", texts);
  }
  out.before.insert(out.before.begin(), own.before.begin(), own.before.end());
  out.after.insert(out.after.end(), own.after.begin(), own.after.end());
  return {};
}

Status add_step(const Json& step, int depth, PostProcessor& out) {
  if (depth > kDeepestStep) return error(Code::kFormat, "post-processors are nested deeper than %d", kDeepestStep);
  NBL_ASSIGN_OR_RETURN(const std::string type, step_type(step, "post_processor"));
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return add_template(step, out);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    NBL_ASSIGN_OR_RETURN(const int32_t cls, token_pair(step, "cls", type));
    NBL_ASSIGN_OR_RETURN(const int32_t sep, token_pair(step, "sep", type));
    out.before.insert(out.before.begin(), cls);
    out.after.push_back(sep);
    return {};
  }
  if (type == "Sequence") {
    NBL_ASSIGN_OR_RETURN(const Json* list, required_list(step, "processors", type));
    for (const Json& inner : *list) NBL_RETURN_IF_ERROR(add_step(inner, depth + 1, out));
    return {};
  }
  return unknown_step("post_processor", type);
}

}  // namespace

Result<PostProcessor> PostProcessor::parse(const Json& step) {
  PostProcessor processor;
  if (!step.is_null()) NBL_RETURN_IF_ERROR(add_step(step, 0, processor));
  return processor;
}

}  // namespace nbl
