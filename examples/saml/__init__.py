"""A SAML 2 federation on sealedstate: an identity provider and three services. See README.md."""

import warnings

# pysaml2 names a cipher where it no longer is; it is not used here.
warnings.filterwarnings("ignore", module=r"saml2\.cryptography")
