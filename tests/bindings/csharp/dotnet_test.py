#!/usr/bin/env python3
"""What only newer frameworks have (IAsyncEnumerable, the fallback to libnibble.so.1), compiled against the runtime's own assemblies.

    dotnet_test.py MCS DOTNET BINDING_DIR MODEL_DIR LIBRARY
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

MCS, DOTNET, BINDING, MODEL, LIBRARY = sys.argv[1:6]
PROGRAM = """
using System; using System.Collections.Generic; using System.Threading; using System.Threading.Tasks; using Nibble;
static class Program {
  // What `await foreach` is, for a compiler without it.
  static async Task<string> All(IAsyncEnumerable<string> pieces, CancellationToken token, Action<string> each = null) {
    string text = "";
    IAsyncEnumerator<string> at = pieces.GetAsyncEnumerator(token);
    try { while (await at.MoveNextAsync()) { text += at.Current; if (each != null) each(text); } }
    finally { await at.DisposeAsync(); }
    return text;
  }
  static Session Prompted(Model model) {
    Session session = new Session(model) { Temperature = 0 };
    session.AppendText("Once upon a time", TokenizeFlags.AddSpecial);
    return session;
  }
  static void Require(bool truth, string what) { if (!truth) throw new Exception(what); }
  static async Task Run(string directory) {
    using (Model model = await Model.LoadAsync(directory)) {
      string plain = string.Concat(Prompted(model).Stream(60));
      Require(plain.Length > 100 && await All(Prompted(model).StreamAsync(60), CancellationToken.None) == plain, "the same text");
      for (int which = 0; which < 2; ++which) {
        CancellationTokenSource source = new CancellationTokenSource();
        Session session = Prompted(model);
        session.IgnoreEos = true;
        IAsyncEnumerable<string> stream = which == 0 ? session.StreamAsync(-1, source.Token) : session.StreamAsync();
        try {
          await All(stream, which == 0 ? CancellationToken.None : source.Token, text => { if (text.Length > 50) source.Cancel(); });
          Require(false, "not cancelled");
        } catch (OperationCanceledException) { }
        Require(session.StopReason == StopReason.Cancelled, "the reason");
      }
      // Left early, it can be gone through again.
      Session again = Prompted(model);
      foreach (string piece in again.Stream()) break;
      Require((await All(again.StreamAsync(5), CancellationToken.None)).Length > 0, "again");
    }
  }
  static int Main(string[] arguments) {
    if (arguments.Length > 1) System.Runtime.InteropServices.NativeLibrary.Load(arguments[1]);
    Run(arguments[0]).GetAwaiter().GetResult(); Console.WriteLine("fine");
    return 0;
  }
}
"""


class Frameworks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        listed = subprocess.run((DOTNET, "--list-runtimes"), capture_output=True, encoding="utf-8", check=True).stdout
        version, place = re.findall(r"Microsoft\.NETCore\.App (\S+) \[(.*)\]", listed)[-1]
        shared = os.path.join(place, version)
        references = ["-r:" + os.path.join(shared, name) for name in (
            "System.Private.CoreLib.dll", "System.Runtime.dll", "System.Text.RegularExpressions.dll", "System.Console.dll",
            "System.ObjectModel.dll")]
        compiler = [MCS, "-langversion:7.2", "-nostdlib", "-noconfig", "-define:NETCOREAPP3_0_OR_GREATER"] + references
        dll = cls.path("Nibble.dll")
        sources = [os.path.join(BINDING, name + ".cs") for name in ("Native", "Gen", "Nibble")]
        subprocess.run(compiler + ["-unsafe", "-target:library", "-out:" + dll] + sources, check=True)
        with open(cls.path("program.cs"), "w", encoding="utf-8") as file:
            file.write(PROGRAM)
        shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "runtimeconfig.json"), cls.path("program.runtimeconfig.json"))
        subprocess.run(compiler + ["-r:" + dll, "-out:" + cls.path("program.exe"), cls.path("program.cs")], check=True)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder.name, name)

    def run_beside(self, folder, *more):
        environment = dict(os.environ, LD_LIBRARY_PATH=folder)
        result = subprocess.run((DOTNET, "exec", self.path("program.exe"), MODEL) + more, env=environment, capture_output=True,
            encoding="utf-8", timeout=120)
        self.assertEqual((result.returncode, result.stdout), (0, "fine\n"), result.stderr)

    def test_streams_asynchronously(self):
        self.run_beside(os.path.dirname(LIBRARY))

    def test_finds_a_library_that_has_only_its_versioned_name(self):
        versioned = self.path("versioned")
        os.mkdir(versioned)
        os.symlink(LIBRARY, os.path.join(versioned, "libnibble.so.1"))
        self.run_beside(versioned)

    def test_takes_the_library_that_the_program_has_loaded(self):
        elsewhere = self.path("elsewhere.so")
        os.symlink(LIBRARY, elsewhere)
        self.run_beside("/nowhere", elsewhere)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
