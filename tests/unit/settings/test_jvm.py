"""The arguments of the JVM: what tunes it is taken, what could run code is not."""

import pytest

from torchserve_guard.settings.jvm import parse


@pytest.mark.parametrize(
    "argument",
    ["-Xmx4g", "-Xms512m", "-XX:MaxRAMPercentage=75.0", "-XX:+UseG1GC", "-XX:-UseContainerSupport", "-server"],
)
def test_an_option_that_tunes_is_taken(argument):
    assert parse(argument) == (argument,)


@pytest.mark.parametrize(
    "argument",
    [
        "-javaagent:/tmp/a.jar", "-agentpath:/tmp/a.so", "-agentlib:jdwp=transport=dt_socket", "-Xbootclasspath/a:/tmp",
        "-cp", "-classpath", "/tmp", "@/tmp/options", "-XX:OnError=sh", "-XX:OnOutOfMemoryError=sh", "-Dlog4j.configurationFile=http://x/",
        "-XX:Flags=/tmp/f", "-XX:VMOptionsFile=/tmp/f", "-XX:HeapDumpPath=/tmp", "-Xlog:gc:file=/tmp/x", "-Dx=y",
        "-DTS_DEBUG=true", "-Djava.io.tmpdir=/tmp", "-Xmx4g -javaagent:x", "-XX:+StartAttachListener",
        "-XX:-DisableAttachMechanism", "--module-path=/tmp", "-jar", "-Xrunhprof", "-XX:SharedArchiveFile=/tmp/x",
    ],
)  # fmt: skip
def test_an_option_that_could_run_code_or_write_files_is_refused(argument):
    with pytest.raises(ValueError, match="remove it"):
        parse(f"-Xmx1g {argument}")
