#!/usr/bin/env python3
"""Makes the NuGet package from what is built, without the .NET SDK and without a network:

    bindings/csharp/pack.py build/release            writes build/release/bindings/csharp/Nibble.1.0.0.nupkg

    lib/netstandard2.0/Nibble.dll, Nibble.xml        the binding
    runtimes/linux-x64/native/libnibble.so           the library: .NET copies it beside the program
    README.md, LICENSE

The layout of `dotnet pack -p:NibbleLibrary=...`, with the Nibble.dll that Mono compiled. Users add the folder as a source:
`dotnet add package Nibble --source FOLDER`.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
EVERYWHERE = re.compile(r"(lib(stdc\+\+|m|gcc_s|c|dl|pthread|rt)\.so|ld-linux)")
NUSPEC = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://schemas.microsoft.com/packaging/2013/05/nuspec.xsd">
  <metadata>
    <id>{PackageId}</id>
    <version>{Version}</version>
    <authors>{Authors}</authors>
    <license type="expression">{PackageLicenseExpression}</license>
    <readme>README.md</readme>
    <description>{Description}</description>
    <dependencies>
      <group targetFramework=".NETStandard2.0" />
    </dependencies>
  </metadata>
</package>
"""
CONTENT_TYPES = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
  <Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml" />
  <Default Extension="nuspec" ContentType="application/octet" />
  <Default Extension="dll" ContentType="application/octet" />
  <Default Extension="so" ContentType="application/octet" />
  <Default Extension="xml" ContentType="application/octet" />
  <Default Extension="md" ContentType="application/octet" />
  <Override PartName="/LICENSE" ContentType="application/octet" />
</Types>
"""
RELATIONSHIPS = """<?xml version="1.0" encoding="utf-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
  <Relationship Type="http://schemas.microsoft.com/packaging/2010/07/manifest" Target="/Nibble.nuspec" Id="R1" />
</Relationships>
"""


def needed_elsewhere(library):
    """What the library needs beside what every system has."""
    listing = subprocess.run(["readelf", "-d", str(library)], check=True, capture_output=True, encoding="utf-8").stdout
    return [name for name in re.findall(r"NEEDED.*\[(.*)\]", listing) if not EVERYWHERE.match(name)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="the build folder")
    parser.add_argument("--out", type=pathlib.Path, help="the folder of the package; default: where Nibble.dll is")
    args = parser.parse_args()
    built = args.build / "bindings/csharp"
    library = args.build / "libnibble.so"
    for path in (built / "Nibble.dll", library):
        if not path.exists():
            sys.exit("%s is not there: build first (cmake --build --preset release --target nibble nibble_csharp)" % path)
    facts = dict(re.findall(r"<(\w+)>([^<]+)</\1>", (HERE / "Nibble.csproj").read_text(encoding="utf-8")))
    out = args.out or built
    out.mkdir(parents=True, exist_ok=True)
    package = out / "{PackageId}.{Version}.nupkg".format(**facts)
    files = {"Nibble.nuspec": NUSPEC.format(**facts), "[Content_Types].xml": CONTENT_TYPES, "_rels/.rels": RELATIONSHIPS,
             "lib/netstandard2.0/Nibble.dll": built / "Nibble.dll", "lib/netstandard2.0/Nibble.xml": built / "Nibble.xml",
             "runtimes/linux-x64/native/libnibble.so": library, "README.md": HERE / "README.md", "LICENSE": HERE.parent.parent / "LICENSE"}
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))  # the same bytes for the same files
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content if isinstance(content, str) else content.read_bytes())
    print("wrote", package)
    for name in needed_elsewhere(library):
        print("note: libnibble.so needs %s, which the machines of your users must have" % name +
              ("; configure with -DNIBBLE_SENTENCEPIECE=OFF for one that does not" if "sentencepiece" in name else ""))


if __name__ == "__main__":
    main()
