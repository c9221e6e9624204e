"""Reports as foreign as can be: every text in them is somebody else's."""

import string
from datetime import date

from hypothesis import strategies as st

from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.findings import Finding, Location, Report, Severity, Subject, Waiver
from torchserve_guard.reporting import Account, Outcome, parse

HOSTILE = "a\nhigh      TSG001  forged\r\x1b[31m\x00]]>&<x>\"'](http://evil)\u202e\u2028\ud800\ufffe"
DOCUMENT = """# The checks

## TSG001

**Looks at** `key`: the first thing.
**Severity** high.

**Why.** Because (H01).

**Remedy.** Do this.

    # before
    key=1

## TSG-SCAN-001

**Looks at** an archive. **Severity** high.

**Why.** Because (H14).

**Remedy.** Leave it out.

# Other
"""

texts = st.one_of(
    st.text(alphabet=st.characters(), max_size=30), st.sampled_from([HOSTILE, "x\ny", "</failure>", "a](b)"])
)
names = texts.filter(bool)
digests = st.text(string.hexdigits.lower(), min_size=64, max_size=64)
locations = st.builds(Location, path=names, line=st.none() | st.integers(0, 10**6), member=st.none() | texts)
waivers = st.builds(
    Waiver,
    rule=st.just("TSG001"),
    owner=names,
    reason=names,
    expires=st.dates(date(2020, 1, 1), date(2040, 1, 1)),
    written=locations,
)
findings = st.builds(
    Finding,
    rule=st.sampled_from(["TSG001", "TSG-SCAN-001", "TSG099"]),
    severity=st.sampled_from(Severity),
    message=texts,
    remedy=texts,
    location=st.none() | locations,
    digest=st.none() | digests,
    key=st.none() | texts,
    waiver=st.none() | waivers,
)
subjects = st.builds(Subject, name=names, digest=digests, size=st.integers(0, 10**12))
reports = st.builds(
    Report,
    target=names,
    findings=st.lists(findings, max_size=6).map(tuple),
    subjects=st.lists(subjects, max_size=2).map(tuple),
)
outcomes = st.builds(Outcome, report=reports, threshold=st.sampled_from(Severity)) | st.builds(
    Outcome.of_error,
    target=names,
    error=st.builds(ConfigError, texts, texts) | st.builds(VerificationError, texts),
    threshold=st.sampled_from(Severity),
    found=st.lists(findings, max_size=2),
)
accounts = st.builds(
    Account,
    outcomes=st.lists(outcomes, min_size=1, max_size=3).map(tuple),
    version=st.just("1.0"),
    root=st.just("/checkout/of a repository"),
    several=st.booleans(),
    home=st.none() | st.just("https://docs.example.com/checks.html"),
    rules=st.just(parse(DOCUMENT)),
)
