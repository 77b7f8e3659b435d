"""Users of IM over REST (D1 to D16): the operations of gateway/im, uploads, media."""
