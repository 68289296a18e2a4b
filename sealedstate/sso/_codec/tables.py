"""Methods, durations, NameID formats and parts of texts that have a number.

Login records hold positions in these tables (see `authentications`, `columns` and `strings`), so a
change of any kind is a new format.

Sources: authentication context classes and NameID formats, OASIS saml-authn-context-2.0-os and
saml-core-2.0-os section 8.3; profiles of refeds.org; ADFS.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")

_CLASSES = (
    "PasswordProtectedTransport",
    "Password",
    "unspecified",
    "X509",
    "Kerberos",
    "TLSClient",
    "PreviousSession",
    "TimeSyncToken",
    "MobileTwoFactorContract",
    "MobileOneFactorContract",
    "MobileTwoFactorUnregistered",
    "MobileOneFactorUnregistered",
    "Smartcard",
    "SmartcardPKI",
    "SoftwarePKI",
    "InternetProtocol",
    "InternetProtocolPassword",
    "SecureRemotePassword",
    "PGP",
    "SPKI",
    "XMLDSig",
    "Telephony",
    "NomadTelephony",
    "PersonalTelephony",
    "AuthenticatedTelephony",
)
# Authentication methods, the most frequent first. At most 32: see `authentications`.
METHODS = (
    *(f"urn:oasis:names:tc:SAML:2.0:ac:classes:{name}" for name in _CLASSES),
    "https://refeds.org/profile/mfa",
    "https://refeds.org/profile/sfa",
    "http://schemas.microsoft.com/claims/multipleauthn",
    "urn:federation:authentication:windows",
)

# How long an authentication counts, in seconds, the most frequent first. Exactly 8.
DURATIONS = (28_800, 3_600, 7_200, 14_400, 36_000, 43_200, 86_400, 1_800)

NAME_ID_FORMATS = (
    "urn:oasis:names:tc:SAML:2.0:nameid-format:transient",
    "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
    "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress",
    "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified",
    "urn:oasis:names:tc:SAML:2.0:nameid-format:entity",
    "urn:oasis:names:tc:SAML:2.0:nameid-format:kerberos",
    "urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName",
    "urn:oasis:names:tc:SAML:1.1:nameid-format:WindowsDomainQualifiedName",
    "urn:oasis:names:tc:SAML:2.0:nameid-format:encrypted",
)

# How texts begin and end, the most frequent first: half a byte names one of the first eight.
TEXT_PREFIXES = (
    "",
    "https://",
    "https://www.",
    "http://",
    "urn:",
    "https://sp.",
    "https://login.",
    "https://idp.",
    "https://auth.",
    "https://saml.",
    "https://sso.",
    "https://moodle.",
    "urn:mace:",
    "urn:federation:",
    "urn:oasis:names:tc:SAML:",
    "spn:",
)
TEXT_SUFFIXES = (
    "",
    "/shibboleth",
    "/saml/metadata",
    "/simplesaml/module.php/saml/sp/metadata.php/default-sp",
    "/adfs/services/trust",
    "/shibboleth-sp",
    "/saml2/metadata",
    "/auth/saml2/sp/metadata.php",
    "/saml",
    "/sp",
    "/metadata",
    "/sp/shibboleth",
    "/saml2",
    "/saml/sp",
    "/saml2/metadata/",
    "/saml/metadata.xml",
    "/mellon/metadata",
    "/Shibboleth.sso",
    "/Shibboleth.sso/Metadata",
    "/simplesaml/saml2/idp/metadata.php",
    "/simplesaml",
    "/index.php/apps/user_saml/saml/metadata",
    "/apps/user_saml/saml/metadata",
    "/plugins/servlet/samlsso",
    "/module.php/saml/sp/metadata.php/default-sp",
    "/proxy_saml2_backend.xml",
    "/Saml2/proxy_saml2_backend.xml",
    "/users/auth/saml/metadata",
    "/users/auth/saml",
    "/auth/saml/metadata",
    "/auth/saml",
    "/sso/saml",
    "/saml/SSO",
    "/sp.xml",
    "/sp-metadata",
    "/secure",
    "/",
    ".zoom.us",
    ".sharepoint.com",
    ".instructure.com/saml2",
)


def entry(table: tuple[T, ...], position: int) -> T:
    """Return the entry at a position. Raises ValueError beyond the table."""
    if position >= len(table):
        raise ValueError("a position beyond its table")
    return table[position]
