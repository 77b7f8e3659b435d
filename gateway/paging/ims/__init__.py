"""IMS paging (C14, RFC 8599): a SIP server holds a request until the terminal that was paged has registered."""
