#include "text/chat_template.h"

#include <dirent.h>

#include <algorithm>

#include "text/chat_request.h"
#include "text/jinja/template.h"

namespace nbl {
namespace {

struct Named {
  std::string name, source;  // source: the file it came from
  std::unique_ptr<jinja::Template> parsed;
};

// What is wrong with a template, which says its line, with where that template stands.
Status about(const std::string& name, const std::string& source, Status problem) {
  return problem.in("the chat template \"" + name + "\" of " + source).with("template", name).with("source", source);
}

// A file that may be missing: "" or {} then.
Result<Json> optional_json(const std::string& path) {
  Result<Json> value = read_json_file(path);
  if (!value.ok() && value.status().code() == Code::kNotFound) return Json::object();
  return value;
}

// {"bos_token": "<s>", ...}: a text, or an object with its content.
void add_special_tokens(const Json& config, Json& out) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto found = config.find(key);
    if (found == config.end() || out.contains(key)) continue;
    if (found->is_string()) out[key] = *found;
    if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) out[key] = (*found)["content"];
  }
}

class Templates : public ChatTemplates {
 public:
  bool empty() const override { return templates_.empty(); }

  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const Named& entry : templates_) out.push_back(entry.name);
    return out;
  }

  std::string source() const override { return source_; }

  Result<std::string> render(const Json& request) const override {
    NBL_ASSIGN_OR_RETURN(const Named* chosen, choose(request));
    Result<std::string> rendered = render_chat(*chosen->parsed, request, special_tokens_);
    if (!rendered.ok() && rendered.status().code() == Code::kTemplate) return about(chosen->name, chosen->source, rendered.status());
    return rendered;
  }

  Status read_special_tokens(const std::string& directory) {
    NBL_ASSIGN_OR_RETURN(config_, optional_json(directory + "/tokenizer_config.json"));
    if (!config_.is_object()) return error(Code::kFormat, "%s/tokenizer_config.json is not an object", directory.c_str());
    NBL_ASSIGN_OR_RETURN(const Json map, optional_json(directory + "/special_tokens_map.json"));
    add_special_tokens(config_, special_tokens_);
    if (map.is_object()) add_special_tokens(map, special_tokens_);
    return {};
  }

  // A text, or a list of {"name", "template"}.
  Status read_config_templates() {
    const auto found = config_.find("chat_template");
    if (found == config_.end()) return {};
    const char* file = "tokenizer_config.json";
    if (found->is_string()) return add("default", found->get<std::string>(), file);
    if (!found->is_array()) return {};
    for (const Json& entry : *found) {
      if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") || !entry["name"].is_string() ||
          !entry["template"].is_string()) {
        return error(Code::kFormat, "tokenizer_config.json: an entry of chat_template lacks name or template");
      }
      NBL_RETURN_IF_ERROR(add(entry["name"].get<std::string>(), entry["template"].get<std::string>(), file));
    }
    return {};
  }

  // Files of their own win over the configuration.
  Status read_template_files(const std::string& directory) {
    Result<std::string> text = read_text_file(directory + "/chat_template.jinja");
    if (text.ok()) {
      NBL_RETURN_IF_ERROR(add("default", *text, "chat_template.jinja"));
    } else if (text.status().code() != Code::kNotFound) {
      return text.status();
    }
    const std::string folder = directory + "/additional_chat_templates";
    std::vector<std::string> files;
    if (DIR* handle = opendir(folder.c_str())) {
      while (const dirent* entry = readdir(handle)) files.emplace_back(entry->d_name);
      closedir(handle);
    }
    std::sort(files.begin(), files.end());
    for (const std::string& file : files) {
      const size_t dot = file.rfind(".jinja");
      if (dot == std::string::npos || dot + 6 != file.size() || dot == 0) continue;
      NBL_ASSIGN_OR_RETURN(const std::string more, read_text_file(folder + "/" + file));
      NBL_RETURN_IF_ERROR(add(file.substr(0, dot), more, "additional_chat_templates/" + file));
    }
    return {};
  }

  Status add(const std::string& name, std::string_view text, const std::string& source) {
    auto parsed = jinja::Template::parse(text);
    if (!parsed.ok()) return about(name, source, parsed.status());
    const auto same = std::find_if(templates_.begin(), templates_.end(), [&](const Named& entry) { return entry.name == name; });
    if (same != templates_.end()) templates_.erase(same);
    templates_.push_back({name, source, std::move(parsed).value()});
    if (source_.empty() || name == "default") source_ = source;
    return {};
  }

 private:
  const Named* find(const std::string& name) const {
    for (const Named& entry : templates_) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }

  // The one that is asked for; else "tool_use" where there are tools; else "default".
  Result<const Named*> choose(const Json& request) const {
    if (templates_.empty()) {
      return error(Code::kUnsupported,
                   "the checkpoint has no chat template (looked in tokenizer_config.json and chat_template.jinja); give one by "
                   "NBL_OPT_CHAT_TEMPLATE, or write the prompt yourself");
    }
    if (request.is_object() && request.contains("template") && request["template"].is_string()) {
      const std::string name = request["template"].get<std::string>();
      if (const Named* found = find(name)) return found;
      return error(Code::kNotFound, "there is no chat template \"%s\"; there are: %s", name.c_str(), joined_names().c_str());
    }
    const bool tools = request.is_object() && request.contains("tools") && request["tools"].is_array() && !request["tools"].empty();
    if (tools) {
      if (const Named* found = find("tool_use")) return found;
    }
    if (const Named* found = find("default")) return found;
    return error(Code::kArgument, "the checkpoint has several chat templates and no default; name one by \"template\": %s",
                 joined_names().c_str());
  }

  std::string joined_names() const {
    std::string out;
    for (const Named& entry : templates_) out += (out.empty() ? "" : ", ") + entry.name;
    return out;
  }

  Json config_;
  Json special_tokens_ = Json::object();
  std::vector<Named> templates_;
  std::string source_;
};

}  // namespace

Result<std::unique_ptr<ChatTemplates>> ChatTemplates::open(const std::string& directory) {
  auto templates = std::make_unique<Templates>();
  NBL_RETURN_IF_ERROR(templates->read_special_tokens(directory));
  NBL_RETURN_IF_ERROR(templates->read_config_templates());
  NBL_RETURN_IF_ERROR(templates->read_template_files(directory));
  return std::unique_ptr<ChatTemplates>(std::move(templates));
}

Result<std::unique_ptr<ChatTemplates>> ChatTemplates::from_text(std::string_view text, const std::string& directory,
                                                                const std::string& source) {
  auto templates = std::make_unique<Templates>();
  NBL_RETURN_IF_ERROR(templates->read_special_tokens(directory));
  NBL_RETURN_IF_ERROR(templates->add("default", text, source));
  return std::unique_ptr<ChatTemplates>(std::move(templates));
}

Result<std::string> render_template(std::string_view source, const Json& context) {
  NBL_ASSIGN_OR_RETURN(const auto parsed, jinja::Template::parse(source));
  return parsed->render(context);
}

}  // namespace nbl
