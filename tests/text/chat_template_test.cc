// Chat templates against what transformers' apply_chat_template renders.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>

#include "support/temporary_checkpoint.h"
#include "text/chat_request.h"
#include "text/family_template.h"
#include "text/tokenizer.h"

namespace nbl {
namespace {

using testing::TemporaryDirectory;

std::string chat_fixtures() { return std::string(NIBBLE_SHARED) + "/fixtures/text/chat"; }

CivilTime moment_of(const std::string& text) {
  CivilTime time;
  std::sscanf(text.c_str(), "%d-%d-%dT%d:%d:%d", &time.year, &time.month, &time.day, &time.hour, &time.minute, &time.second);
  return time;
}

TEST(ChatTemplate, RendersWhatTransformersRenders) {
  std::ifstream lines(chat_fixtures() + "/golden.jsonl");
  if (!lines) GTEST_SKIP() << "the reference renderings are not there: " << chat_fixtures();
  std::map<std::string, std::unique_ptr<jinja::Template>> parsed;
  int count = 0, wrong = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json c = *parse_json(line, "golden.jsonl");
    const std::string& name = c["template"].string();
    if (!parsed.count(name)) {
      const auto text = read_text_file(chat_fixtures() + "/templates/" + name);
      ASSERT_TRUE(text.ok()) << text.status().message();
      auto made = jinja::Template::parse(*text);
      ASSERT_TRUE(made.ok()) << name << ": " << made.status().message();
      parsed[name] = std::move(made).value();
    }
    Json request = c.value("extra", Json::object());
    request["messages"] = c["messages"];
    for (const char* key : {"add_generation_prompt", "tools", "continue_final_message"}) {
      if (c.contains(key)) request[key] = c[key];
    }
    std::optional<CivilTime> now;
    if (c.contains("now")) now = moment_of(c["now"].string());
    const auto rendered = render_chat(*parsed[name], request, Json::object(), now);
    const std::string where = name + ", " + c.value("case", "");
    if (c.contains("error")) {
      const bool told = !rendered.ok();
      const bool raised = c.value("error_type", "") == "TemplateError";
      const bool same = !raised || (told && rendered.status().message().find(c["error"].get<std::string>()) != std::string::npos);
      if (!told || !same) {
        ++wrong;
        if (wrong <= 20)
          ADD_FAILURE() << where << ": expected the error " << c["error"] << ", found " << (told ? rendered.status().message() : *rendered);
      }
    } else if (!rendered.ok() || *rendered != c["rendered"].get<std::string>()) {
      ++wrong;
      if (wrong <= 20)
        ADD_FAILURE() << where << "\n  expected " << c["rendered"] << "\n  found    "
                      << (rendered.ok() ? to_text(*rendered) : rendered.status().message());
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << count;
  EXPECT_GT(count, 2000);
}

TEST(ChatTemplate, UnitCases) {
  std::ifstream lines(chat_fixtures() + "/unit.jsonl");
  if (!lines) GTEST_SKIP() << "the unit cases are not there: " << chat_fixtures();
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json c = *parse_json(line, "unit.jsonl");
    // The clock stood still when these were made.
    const auto rendered = [&c]() -> Result<std::string> {
      NBL_ASSIGN_OR_RETURN(const auto parsed, jinja::Template::parse(c["template"].get<std::string>()));
      return parsed->render(c["context"], moment_of("2026-07-04T05:06:07"));
    }();
    const std::string where = c["id"].get<std::string>() + ": " + c["template"].get<std::string>().substr(0, 300);
    bool right = c.contains("expected") ? rendered.ok() && *rendered == c["expected"].get<std::string>() : !rendered.ok();
    if (!right && c.contains("accept")) {
      for (const Json& other : c["accept"].is_array() ? c["accept"] : Json::array({c["accept"]})) {
        if (other == "error") right = right || !rendered.ok();
        if (rendered.ok() && other.is_string()) right = right || *rendered == other.get<std::string>();
      }
    }
    EXPECT_TRUE(right) << where << "\n  expected " << (c.contains("expected") ? to_text(c["expected"]) : "error " + to_text(c["error"]))
                       << "\n  found    " << (rendered.ok() ? to_text(rendered->substr(0, 500)) : rendered.status().message());
  }
  EXPECT_GT(count, 400);
}

Result<std::unique_ptr<ChatTemplates>> open_with(const TemporaryDirectory& directory, const std::string& config) {
  directory.write("tokenizer_config.json", config);
  return ChatTemplates::open(directory.path());
}

const char* kTurns = R"({"messages":[{"role":"user","content":"hi"}]})";

TEST(ChatTemplate, SpecialTokensAreVariablesWhateverTheirSpelling) {
  TemporaryDirectory directory;
  const auto templates = open_with(
      directory,
      R"({"bos_token":"<s>","eos_token":{"content":"</s>"},"chat_template":"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token is defined }}"})");
  ASSERT_TRUE(templates.ok()) << templates.status().message();
  EXPECT_EQ(*(*templates)->render(*parse_json(kTurns, "test")), "<s>hi</s>False");
}

TEST(ChatTemplate, NamedTemplatesAndTheOneForTools) {
  TemporaryDirectory directory;
  const auto templates = open_with(
      directory,
      R"({"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"},{"name":"rag","template":"R"}]})");
  ASSERT_TRUE(templates.ok()) << templates.status().message();
  Json request = *parse_json(kTurns, "test");
  EXPECT_EQ(*(*templates)->render(request), "D");
  request["tools"] = Json::array({Json::object()});
  EXPECT_EQ(*(*templates)->render(request), "T");
  request["template"] = "rag";
  EXPECT_EQ(*(*templates)->render(request), "R");
  request["template"] = "none";
  EXPECT_EQ((*templates)->render(request).status().code(), Code::kNotFound);
}

TEST(ChatTemplate, FilesWinOverTheConfiguration) {
  TemporaryDirectory directory;
  directory.write("chat_template.jinja", "from the file\r\n");
  const auto templates = open_with(directory, R"({"chat_template":"from the configuration"})");
  ASSERT_TRUE(templates.ok());
  EXPECT_EQ(*(*templates)->render(*parse_json(kTurns, "test")), "from the file");
  EXPECT_EQ((*templates)->source(), "chat_template.jinja");
}

TEST(ChatTemplate, ADirectoryWithoutOneSaysTheWayOut) {
  TemporaryDirectory directory;
  const auto templates = ChatTemplates::open(directory.path());
  ASSERT_TRUE(templates.ok());
  EXPECT_TRUE((*templates)->empty());
  const auto rendered = (*templates)->render(*parse_json(kTurns, "test"));
  EXPECT_EQ(rendered.status().code(), Code::kUnsupported);
  EXPECT_NE(rendered.status().message().find("NBL_OPT_CHAT_TEMPLATE"), std::string::npos);
}

// A vocabulary with the control tokens of a published format tells it; others get no template.
TEST(ChatTemplate, TheVocabularyTellsThePublishedFormats) {
  TemporaryDirectory directory;
  const auto open_tokenizer = [&](const std::string& added) {
    directory.write("tokenizer.json", R"({"version":"1.0","added_tokens":[)" + added +
                                          R"(],"normalizer":null,"pre_tokenizer":null,"post_processor":null,)"
                                          R"("decoder":null,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})");
    auto tokenizer = Tokenizer::open(directory.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    return std::move(tokenizer).value();
  };
  const auto special = [](int id, const std::string& content) {
    return R"({"id":)" + std::to_string(id) + R"(,"content":")" + content +
           R"(","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
  };
  EXPECT_EQ(family_template(*open_tokenizer("")), nullptr);
  EXPECT_EQ(family_template(*open_tokenizer(special(1, "<|im_start|>"))), nullptr);
  const auto chatml = open_tokenizer(special(1, "<|im_start|>") + "," + special(2, "<|im_end|>"));
  const FamilyTemplate* family = family_template(*chatml);
  ASSERT_NE(family, nullptr);
  const auto templates = ChatTemplates::from_text(family->text, directory.path(), family->name);
  ASSERT_TRUE(templates.ok()) << templates.status().message();
  EXPECT_EQ(*(*templates)->render(*parse_json(kTurns, "test")), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_NE((*templates)->source().find("ChatML"), std::string::npos);
}

// As transformers 5.23 answers the same.
TEST(ChatTemplate, ContinuesTheFinalMessage) {
  TemporaryDirectory directory;
  const auto continued = [&](const char* content, const char* final_message, const char* field = "true") -> std::string {
    const auto templates =
        ChatTemplates::from_text(std::string("{% for m in messages %}<{{ m.role }}{{ '|' + m.thinking if m.thinking }}>") + content +
                                     "</{{ m.role }}>{% endfor %}Hi",
                                 directory.path());
    if (!templates.ok()) return templates.status().message();
    const auto rendered = (*templates)
                              ->render(*parse_json(std::string(R"({"messages":[{"role":"user","content":"Hi"},)") + final_message +
                                                       R"(],"continue_final_message":)" + field + "}",
                                                   "test"));
    return rendered.ok() ? *rendered : "error: " + rendered.status().message();
  };
  EXPECT_EQ(continued("{{ m.content }}", R"({"role":"assistant","content":"Sure, "})"), "<user>Hi</user><assistant>Sure, ");
  EXPECT_EQ(continued("{{ m.content | trim }}", R"({"role":"assistant","content":" Sure, \n"})"), "<user>Hi</user><assistant>Sure,");
  // What stands elsewhere too, or is nothing.
  EXPECT_EQ(continued("{{ m.content }}", R"({"role":"assistant","content":"Hi"})"), "<user>Hi</user><assistant>Hi");
  EXPECT_EQ(continued("{{ m.content }}", R"({"role":"assistant","content":""})"), "<user>Hi</user><assistant>");
  EXPECT_EQ(continued("{{ m.content[0].text if m.content[0].text is defined else m.content }}",
                      R"({"role":"assistant","content":[{"type":"text","text":"So"},{"type":"image"}]})"),
            "<user>Hi</user><assistant>So");
  EXPECT_EQ(continued("{{ m.content }}", R"({"role":"assistant","content":"","reasoning":"Well"})", R"("reasoning")"),
            "<user>Hi</user><assistant|Well");
  EXPECT_NE(continued("x", R"({"role":"assistant","content":"Hi"})").find("does not stand in"), std::string::npos);
  EXPECT_NE(continued("{{ m.content }}", R"({"role":"assistant","content":null})").find("no text in \"content\""), std::string::npos);
  EXPECT_NE(continued("{{ m.content }}", R"({"role":"assistant","content":"Hi"})", "1").find("true, false or"), std::string::npos);
}

TEST(ChatTemplate, RequestsOfAnotherFormAreRefused) {
  TemporaryDirectory directory;
  const auto templates = ChatTemplates::from_text("x", directory.path());
  for (const char* bad : {"[]", "{}", R"({"messages":[]})", R"({"messages":"x"})", R"({"messages":[1]})"}) {
    EXPECT_EQ((*templates)->render(*parse_json(bad, "test")).status().code(), Code::kArgument) << bad;
  }
}

TEST(ChatTemplate, ABrokenTemplateNamesItsLine) {
  TemporaryDirectory directory;
  const auto broken = ChatTemplates::from_text("a\nb {% if %}", directory.path());
  EXPECT_EQ(broken.status().code(), Code::kTemplate);
  EXPECT_NE(broken.status().message().find("line 2"), std::string::npos) << broken.status().message();
  const auto templates = ChatTemplates::from_text("a\nb\n{{ raise_exception('no such role') }}", directory.path());
  const auto rendered = (*templates)->render(*parse_json(kTurns, "test"));
  EXPECT_EQ(rendered.status().code(), Code::kTemplate);
  EXPECT_NE(rendered.status().message().find("no such role"), std::string::npos);
  EXPECT_NE(rendered.status().detail().find("\"line\":3"), std::string::npos) << rendered.status().detail();
}

// A line is of use with its file: a directory may have several, and a program may have passed its own.
TEST(ChatTemplate, WhatFailsIsToldWithItsFile) {
  const std::string text = "a\n{{ raise_exception('no') }}";
  const Json in_config = {{"chat_template", text}};
  const Json named = {{"chat_template", Json::array({Json{{"name", "rag"}, {"template", text}}})}};
  TemporaryDirectory config, list, file, folder;
  config.write("tokenizer_config.json", to_text(in_config));
  list.write("tokenizer_config.json", to_text(named));
  file.write("tokenizer_config.json", to_text(in_config));
  file.write("chat_template.jinja", text);
  std::filesystem::create_directory(folder.file("additional_chat_templates"));
  folder.write("additional_chat_templates/rag.jinja", text);
  Json by_name = *parse_json(kTurns, "test");
  by_name["template"] = "rag";
  const struct {
    Result<std::unique_ptr<ChatTemplates>> templates;
    Json request;
    const char* expected;
  } cases[] = {
      {ChatTemplates::open(config.path()), *parse_json(kTurns, "test"), "the chat template \"default\" of tokenizer_config.json: "},
      {ChatTemplates::open(list.path()), by_name, "the chat template \"rag\" of tokenizer_config.json: "},
      {ChatTemplates::open(file.path()), *parse_json(kTurns, "test"), "the chat template \"default\" of chat_template.jinja: "},
      {ChatTemplates::open(folder.path()), by_name, "the chat template \"rag\" of additional_chat_templates/rag.jinja: "},
      {ChatTemplates::from_text(text, config.path()), *parse_json(kTurns, "test"), "the chat template \"default\" of NBL_OPT_CHAT_TEMPLATE: "},
  };
  for (const auto& c : cases) {
    ASSERT_TRUE(c.templates.ok()) << c.templates.status().message();
    const auto rendered = (*c.templates)->render(c.request);
    EXPECT_EQ(rendered.status().code(), Code::kTemplate);
    EXPECT_EQ(rendered.status().message().find(c.expected), 0u) << rendered.status().message();
  }
}

}  // namespace
}  // namespace nbl
