"""What the pages say after a button was pressed, by the name that an action returns."""

from __future__ import annotations

NOTICES = {
    "signed-in": "You are signed in. The session has a new id: a copy of the earlier cookie is"
    " useless.",
    "signed-out": "You are signed out. Every copy of your cookie is refused from now on.",
    "signed-out-everywhere": "You are signed out in all browsers. Every session of yours that began"
    " until now is refused.",
    "no-name": "Please enter a name of printable characters.",
    "services-added": "The service logins are recorded. Below you see what they take.",
    "no-more-services": "You are logged in at all services that the portal knows.",
    "service-removed": "That service login is forgotten.",
    "services-removed": "All service logins are forgotten.",
    "kept-as-derived": "The same services, with identifiers derived from your session's id.",
    "kept-as-stored": "The same services, with random identifiers, stored in a login record.",
    "kept-as-plain": "The same services, with random identifiers, stored as a plain list of dicts.",
    "no-such-form": "The portal does not know that form.",
    "cart-filled": "It is in your cart.",
    "nothing-added": "The shop does not have that.",
    "cart-emptied": "Your cart is empty.",
    "noted": "The note is in your cookie. Paste a very long one to see what does not fit.",
    "profile-changed": "The same session, saved within another cookie budget.",
    "regenerated": "The session has a new id, and the old one is refused. Services still know the"
    " identifiers that were derived from it, so these are stored from now on.",
    "terms-accepted": "You agreed to the terms. What you entered is sealed in the store.",
    "terms-withdrawn": "Your consent is forgotten, with what you entered.",
    "key-announced": "A new key is announced. Everything that the old one sealed still opens.",
    "key-is-coming": "A new key is announced already, and will seal in some seconds.",
    "enough-keys": "The ring is full: each key must open as long as a session may live.",
    "keys-unchanged": "The ring could not be written. Its keys are as they were.",
    "tracker-added": "Another application's cookie takes room now, at the end of the bar.",
    "no-more-trackers": "Four cookies of another application are the most that the portal sets.",
    "trackers-removed": "The other cookies are gone.",
}
