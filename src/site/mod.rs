//! What a site is: the site file, its profiles and lists.
