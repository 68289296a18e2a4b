"""The byte format of login records.

`columns` is the layout of service logins and `authentications` that of authentications; both write
texts with `strings` and numbers with `bits`. `tables` has the numbers of well-known values.
"""
