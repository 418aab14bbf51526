#!/usr/bin/env python3
"""Writes unicode_tables.cc: where the Unicode data that tokenizer.json's steps were written against differs from
what utf8proc 2.8 (Unicode 15) and PCRE2 10.42 (Unicode 14) know.

    pip install tokenizers==0.23.3 unicodedata2==16.0.0
    python3 unicode_tables.py > unicode_tables.cc

The `tokenizers` package uses tables of several ages: its regexes are Unicode 16, its normalizers and its punctuation
test are much older, its lower case is newer. Every table here is found by asking the package about each code point.
"""
import ctypes
import unicodedata
import unicodedata2
from tokenizers import normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORY = {c: unicodedata2.category(chr(c)) for c in CODE_POINTS}
ASCII_PUNCTUATION = {ord(c) for c in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}

utf8proc = ctypes.CDLL("libutf8proc.so.2")
utf8proc.utf8proc_tolower.restype = ctypes.c_int32


class Property(ctypes.Structure):
    _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16)]


utf8proc.utf8proc_get_property.restype = ctypes.POINTER(Property)
DECOMPOSE, COMPAT = 1 << 4, 1 << 2


def decomposed(code, options):
    buffer = (ctypes.c_int32 * 64)()
    last = ctypes.c_int(0)
    n = utf8proc.utf8proc_decompose_char(code, buffer, 64, options, ctypes.byref(last))
    return "".join(map(chr, buffer[:n]))


def combining(code):
    return utf8proc.utf8proc_get_property(code).contents.combining_class


def ranges(codes):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def removed_by(pre):
    """Code points that a pre-tokenizer takes out of the text."""
    out = set()
    for start in range(0, len(CODE_POINTS), 4096):
        part = CODE_POINTS[start:start + 4096]
        left = set()
        for _, (a, b) in pre.pre_tokenize_str("".join(map(chr, part))):
            left.update(range(a, b))
        out.update(c for k, c in enumerate(part) if k not in left)
    return out


def removed(normalizer):
    return {c for c in CODE_POINTS if normalizer.normalize_str(chr(c)) == ""}


def put(name, comment, rows):
    print("\n// %s\nconst Range %s[] = {" % (comment, name))
    line = "   "
    for a, b in rows:
        item = " {0x%X, 0x%X}," % (a, b)
        if len(line) + len(item) > 112:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\nconst size_t %s_count = sizeof(%s) / sizeof(Range);" % (name, name))


def numeric(c):
    probe = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a" + chr(c) + "a")
    return len(probe) == 3


def ignores_class(nfd, c):
    mark = chr(c)
    if combining(c) > 1:
        return nfd.normalize_str("a" + mark + "\u0334") == "a" + mark + "\u0334"
    return combining(c) == 1 and nfd.normalize_str("a\u0301" + mark) == "a\u0301" + mark


def script_rows():
    """Runs of code points that UnicodeScripts puts together, numbered by the first code point of the script."""
    names, rows = [], []
    for c in CODE_POINTS:
        pre = pre_tokenizers.UnicodeScripts()
        if len(pre.pre_tokenize_str(chr(c))) == 0:
            continue  # a script of its own would start a piece: this one goes with anything
        if rows and rows[-1][1] == c - 1 and len(pre.pre_tokenize_str(chr(c - 1) + chr(c))) == 1:
            rows[-1][1] = c
            continue
        for index, sample in enumerate(names):
            if len(pre.pre_tokenize_str(sample + chr(c))) == 1:
                break
        else:
            index = len(names)
            names.append(chr(c))
        rows.append([c, c, index + 1])
    return rows


def main():
    print("// Written by unicode_tables.py; what each table is for is said there and in unicode.h.")
    print('#include "text/unicode_tables.h"\n\nnamespace nbl::unicode {')

    rows = []
    for c in CODE_POINTS:
        if unicodedata.category(chr(c)) != CATEGORY[c]:
            if rows and rows[-1][1] == c - 1 and rows[-1][2] == CATEGORY[c]:
                rows[-1][1] = c
            else:
                rows.append([c, c, CATEGORY[c]])
    print("\n// General categories that are not those of Unicode 14.\nconst CategoryRange kSince14[] = {")
    line = "   "
    for a, b, name in rows:
        item = " {0x%X, 0x%X, Category::k%s}," % (a, b, name)
        if len(line) + len(item) > 112:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\nconst size_t kSince14_count = sizeof(kSince14) / sizeof(CategoryRange);")

    punctuation = {c for c in CODE_POINTS if CATEGORY[c][0] == "P"} | ASCII_PUNCTUATION
    put("kPunctuationFlips", "Where the Punctuation step's test is not `category P or ASCII punctuation`.",
        ranges(punctuation ^ removed_by(pre_tokenizers.Punctuation("removed"))))
    put("kNumericFlips", "Where the Digits step's test is not `category N`.",
        ranges({c for c in CODE_POINTS if (CATEGORY[c][0] == "N") != numeric(c)}))
    put("kMarkFlips", "Where StripAccents' test is not `category M`.",
        ranges({c for c in CODE_POINTS if CATEGORY[c][0] == "M"} ^ removed(normalizers.StripAccents())))
    bert = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    put("kBertMarkFlips", "Where BertNormalizer's strip_accents test is not `category Mn`.",
        ranges({c for c in CODE_POINTS if CATEGORY[c] == "Mn"} ^ removed(bert)))
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    control = {c for c in CODE_POINTS if CATEGORY[c] in ("Cc", "Cf", "Co") and c not in (9, 10, 13)} | {0, 0xFFFD}
    put("kBertControlFlips", "Where BertNormalizer's clean_text removes other than Cc, Cf, Co, NUL and U+FFFD.",
        ranges(control ^ removed(clean)))

    nfd, nfkd, nfc = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()
    hangul = range(0xAC00, 0xD7A4)
    put("kNotDecomposed", "What NFD and NFKD leave alone although Unicode 15 decomposes it.",
        ranges({c for c in CODE_POINTS if c not in hangul and nfkd.normalize_str(chr(c)) == chr(c)
                and decomposed(c, COMPAT | DECOMPOSE) != chr(c)}))
    wrong = [c for c in CODE_POINTS if c not in hangul and nfkd.normalize_str(chr(c)) not in
             (chr(c), decomposed(c, COMPAT | DECOMPOSE))]
    assert not wrong, "NFKD differs in more than leaving alone: %s" % ["%X" % c for c in wrong]
    wrong = [c for c in CODE_POINTS if c not in hangul and nfd.normalize_str(chr(c)) not in
             (chr(c), decomposed(c, DECOMPOSE))]
    assert not wrong, "NFD differs in more than leaving alone: %s" % ["%X" % c for c in wrong]
    put("kNoCombiningClass", "Marks whose combining class the normalizers do not know: they are never reordered.",
        ranges({c for c in CODE_POINTS if combining(c) and ignores_class(nfd, c)}))

    low = normalizers.Lowercase()
    print("\n// Where Lowercase gives another single code point than utf8proc (Unicode 15).")
    print("const CodePair kLowercase[] = {")
    line = "   "
    for c in CODE_POINTS:
        got = low.normalize_str(chr(c))
        if len(got) == 1 and ord(got) != utf8proc.utf8proc_tolower(c):
            item = " {0x%X, 0x%X}," % (c, ord(got))
            if len(line) + len(item) > 112:
                print(line)
                line = "   "
            line += item
        assert len(got) == 1 or c == 0x130, "%X lowers to %r" % (c, got)
    print(line + "\n};\nconst size_t kLowercase_count = sizeof(kLowercase) / sizeof(CodePair);")

    print("\n// Scripts as UnicodeScripts sees them, numbered in order of appearance; what is in no row goes with anything.")
    print("const ScriptRange kScripts[] = {")
    line = "   "
    for a, b, script in script_rows():
        item = " {0x%X, 0x%X, %d}," % (a, b, script)
        if len(line) + len(item) > 112:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\nconst size_t kScripts_count = sizeof(kScripts) / sizeof(ScriptRange);")
    print("\n}  // namespace nbl::unicode")


if __name__ == "__main__":
    main()
