"""The arguments of the JVM: what tunes it is taken, what could run code is not."""

import pytest

from torchserve_guard.settings.jvm import log_configuration, parse


@pytest.mark.parametrize(
    "argument",
    [
        "-Xmx4g",
        "-Xms512m",
        "-XX:MaxRAMPercentage=75.0",
        "-XX:+UseG1GC",
        "-XX:-UseContainerSupport",
        "-server",
        "-XX:-UseLargePages",
        "-XX:+HeapDumpOnOutOfMemoryError",
        "-Djava.net.preferIPv4Stack=true",
        "-Dfile.encoding=UTF-8",
        "-Duser.timezone=Europe/Berlin",
    ],
)
def test_an_option_that_tunes_is_taken(argument):
    assert parse(argument) == (argument,)


@pytest.mark.parametrize(
    "argument",
    [
        "-javaagent:/tmp/a.jar", "-agentpath:/tmp/a.so", "-agentlib:jdwp=transport=dt_socket", "-Xbootclasspath/a:/tmp",
        "-cp", "-classpath", "/tmp", "@/tmp/options", "-XX:OnError=sh", "-XX:OnOutOfMemoryError=sh", "-Dlog4j.configurationFile=http://x/",
        "-XX:Flags=/tmp/f", "-XX:VMOptionsFile=/tmp/f", "-XX:HeapDumpPath=/tmp", "-Xlog:gc:file=/tmp/x", "-Dx=y",
        "-DTS_DEBUG=true", "-Duser.timezone=../../x", "-Dfile.encoding=x", "-Djava.net.preferIPv4Stack=@x",
        "-Dlog4j.configurationFile=/tmp/a.xml,http://x/", "-Dlog4j2.configurationFile=log.xml",
        "-Dlog4j.configuration=/x", "-Dlog4j.configurationFile=file://host/tmp/a.xml",
        "-Djava.io.tmpdir=/tmp", "-Xmx4g -javaagent:x", "-XX:+StartAttachListener",
        "-XX:-DisableAttachMechanism", "--module-path=/tmp", "-jar", "-Xrunhprof", "-XX:SharedArchiveFile=/tmp/x",
    ],
)  # fmt: skip
def test_an_option_that_could_run_code_or_write_files_is_refused(argument):
    with pytest.raises(ValueError, match="remove it"):
        parse(f"-Xmx1g {argument}")


def test_where_to_log_is_taken_out_of_the_arguments():
    text = "-Xmx1g -Dlog4j.configurationFile=file:///a.xml -Dlog4j2.configurationFile=/b.xml"
    assert parse(text) == ("-Xmx1g",)
    assert log_configuration(text) == "/b.xml"
    assert log_configuration("-Xmx1g") is None
