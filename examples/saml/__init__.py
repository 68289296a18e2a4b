"""A SAML 2 federation on sealedstate: an identity provider and three services. See README.md."""

import warnings

# pysaml2 imports a cipher from its former place; the example does not use it.
warnings.filterwarnings("ignore", module=r"saml2\.cryptography")
