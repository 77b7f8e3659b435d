"""UST: users, their verification, bound accounts, friends, groups, contacts (D1, D5, D9, D11); every message in either
direction is admitted here before it moves on."""
