//! The table of problems.
//!
//! Source: e2fsck(8); the kernel's ext4 documentation.

use super::{Action, Entry};

macro_rules! problems {
    ($($code:literal $name:ident $action:ident $preen:literal $default:literal $text:literal;)*) => {
        /// A problem, named after what was found.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Problem {
            $($name,)*
        }

        impl Problem {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub fn entry(self) -> Entry {
                match self {
                    $(Self::$name => Entry {
                        code: $code,
                        name: stringify!($name),
                        text: $text,
                        action: Action::$action,
                        preen: $preen,
                        default: $default,
                    },)*
                }
            }
        }
    };
}

problems! {
    1 SuperblockBad Fix false true "The superblock is not usable ({label}); the copy in block {block} is used";
    2 SuperblockChecksum Fix false true "The superblock's checksum is wrong";
    3 SuperblockField Fix false true "The superblock's {label} is {found}, which is not possible";
    4 DescriptorsBad Fix false true "The group descriptors are damaged (group {group}); the copies behind the superblock in block {block} are used";
    5 DescriptorChecksum Fix true true "The checksum of group {group}'s descriptor is wrong ({found} instead of {expected})";
    6 UnusedInodes Fix true true "Group {group} says that {found} of its inodes were never used, more than it has or than its neighbours allow";
    7 UninitWithoutFeature Fix true true "Group {group} is marked as not initialised, but the file system does not have that feature";
    8 BlockBitmapPlace Relocate false true "The block bitmap of group {group} cannot lie in block {block}";
    9 InodeBitmapPlace Relocate false true "The inode bitmap of group {group} cannot lie in block {block}";
    10 InodeTablePlace Relocate false true "The inode table of group {group} cannot lie at block {block}";
    11 NoUuid Fix true true "The file system has no UUID";
    12 LargeFileFeature Fix true true "A file is larger than 2 GiB, but the feature large_file is not set";
    13 ErrorRecorded Fix true true "The file system was marked as having errors";
    14 NotClean Fix true true "The file system was not unmounted cleanly";
    15 MinExtraIsize Fix true true "The superblock's s_min_extra_isize is {found}, which is not possible";
    16 WantExtraIsize Fix true true "The superblock's s_want_extra_isize is {found}, which is not possible";
    17 TooSmallDevice Fix false false "The file system has {found} blocks, but the device only {expected}";
    18 SuperblockFlags Fix true true "The superblock says nothing of how names are hashed";
    19 FreeBlocksImpossible Fix true true "The superblock counts {found} free blocks of {expected}";
    20 BackupGroups Fix true true "The superblock's list of groups with copies is not possible";
    21 FeatureExtents Fix false true "Inode {ino} uses extents, but the feature extent is not set";
    22 ResizeInodeInvalid Rebuild false true "The inode that keeps blocks for growing the file system is not valid";
    23 ReservedWithoutResize Fix false true "Blocks are kept for growing the file system, but the feature resize_inode is not set";
    24 ResizeInodeUnused Clear false true "The feature resize_inode is not set, but its inode is in use";
    25 MetaBgAndResize Fix false true "The features resize_inode and meta_bg cannot go together";
    26 FirstMetaBg Fix false true "The superblock's s_first_meta_bg is {found}, more than the {expected} blocks of descriptors";
    27 Backups Fix true true "Copies of the superblock or of the descriptors do not agree with the original";
    28 OverheadCount Fix true true "The superblock counts {found} clusters of overhead, which is not possible";
    50 JournalInodeBad Clear false true "The superblock names inode {ino} as journal, but it is none that can be used ({label})";
    51 JournalSuperblock Fix false true "The journal's superblock is damaged ({label})";
    52 JournalWithoutFeature Clear false true "There is a journal, but the feature has_journal is not set";
    53 RecoverWithoutJournal Clear true true "The file system asks for the replay of a journal that it does not have";
    54 JournalNotEmpty Replay true true "The journal is not empty and must be replayed";
    55 JournalNotMarked Replay true true "The journal is not empty, but the file system does not say so";
    56 JournalBadTransaction Clear false true "The journal holds transactions that cannot be replayed ({label})";
    57 JournalErrno Clear true true "The journal was stopped with error {found}";
    58 JournalMissing Recreate false true "The journal was removed";
    59 JournalInodeUnused Clear true true "The journal's inode is not in use but holds data";
    60 JournalExternal Clear false false "The journal is on another device, which is not here";
    61 JournalBackup Fix true true "The superblock's copy of the journal's block map does not agree with the journal's inode";
    62 JournalFastCommitArea Fix false true "The journal's area of fast commits is larger than the journal";
    63 JournalInodeRestored Fix true true "The journal's inode {ino} is damaged, its map in the superblock is not";
    70 OrphanListBad Clear false true "The list of orphans is damaged at inode {ino}";
    71 OrphanInode Clear true true "Inode {ino} was deleted, or was to be truncated, while it was open";
    72 OrphanFileInode Clear false true "The superblock names inode {ino} as orphan file, but it is none that can be used";
    73 OrphanFileBlock Clear false true "Block {lblk} of the orphan file is damaged";
    74 OrphanFileEntry Clear false true "The orphan file names inode {found}, which cannot be one";
    75 OrphanFileWithoutFeature Clear false true "There is an orphan file, but the feature orphan_file is not set";
    77 OrphanFileSize Fix false true "The orphan file's size is {found} instead of {expected}";
    78 OrphanPresentMissing Fix true true "The orphan file holds inodes, but the superblock does not say so";
    80 MmpBlock Fix false true "The block for multi-mount protection is damaged ({label})";
    81 MmpPlace Fix false true "The block for multi-mount protection cannot lie in block {block}";
    1001 RootNotDirectory Clear false true "The root inode is not a directory";
    1002 RootDtime Fix true true "The root inode has a time of deletion";
    1003 ReservedMode Clear true true "Reserved inode {ino} has mode {found}";
    1004 ZeroDtime Fix true true "Inode {ino} is deleted but has no time of deletion";
    1005 InUseDtime Fix true true "Inode {ino} is in use but has a time of deletion";
    1006 InodeChecksum Fix false true "Inode {ino} is plausible, but its checksum is wrong";
    1007 InodeGarbage Clear false true "Inode {ino} holds nothing plausible";
    1008 InodeFlagsNotSupported Clear false true "Inode {ino} has flags ({found}) that need a feature that is not set";
    1009 ImagicFlag Clear false true "Inode {ino} has the imagic flag";
    1011 SpecialFlags Clear false true "Inode {ino} is a device, socket, pipe or symbolic link, but has the immutable or append-only flag";
    1012 SpecialExtents Clear false true "Inode {ino} is a device, socket or pipe, but has the extents or inline data flag";
    1013 FastSymlinkExtents Clear false true "Inode {ino} is a symbolic link in its inode, but has the extents flag";
    1014 ExtraIsize Fix false true "Inode {ino} has {found} bytes of extra fields, which is not possible";
    1015 ExtentsFeature Fix false true "Inode {ino} is mapped by extents, but the feature extent is not set";
    1016 ExtentsFlagClear Clear false true "Inode {ino} has the extents flag, but the feature extent is not set";
    1017 ExtentsFlagMissing Fix false true "Inode {ino} is mapped by extents, but lacks the flag for it";
    1018 InlineFeature Clear false true "Inode {ino} has inline data, but the feature inline_data is not set";
    1019 InlineAndExtents Fix false true "Inode {ino} has the flags of both inline data and extents";
    1020 InlineAndExtentsJunk Clear false true "Inode {ino} has the flags of both inline data and extents, but nothing of either";
    1021 InlineNoAttribute Truncate false true "Inode {ino} has inline data, but not the attribute for it";
    1022 InlineSize Fix true true "Inode {ino} has {expected} bytes of inline data, but its size is {found}";
    1023 EncryptFlag Clear false true "Inode {ino} has the encryption flag, but no encryption context";
    1024 EncryptContext Clear false true "Inode {ino} has an encryption context that cannot be used";
    1025 CasefoldNoDir Clear false true "Inode {ino} has the casefold flag, but is no directory";
    1026 CasefoldFeature Clear false true "Inode {ino} has the casefold flag, but the feature casefold is not set";
    1027 VerityFeature Clear false true "Inode {ino} has the verity flag, but the feature verity is not set";
    1028 EaInodeFeature Clear false true "Inode {ino} holds an attribute's value, but the feature ea_inode is not set";
    1029 EaInodeFlagSpurious Clear false true "Inode {ino} has the flag of an attribute's value, but cannot be one";
    1030 HtreeNotDir Clear true true "Inode {ino} has the index flag, but is no directory";
    1031 HtreeFeature Clear false true "Inode {ino} has the index flag, but the feature dir_index is not set";
    1032 HtreeRoot Clear false true "Inode {ino} has the index flag, but no index that can be used";
    1033 BadMode Clear false true "Inode {ino} has mode {found}, which is no file type";
    1034 IsReallyDirectory Fix false true "Inode {ino} has mode {found}, but its contents are a directory's";
    1035 BadDevice Clear false true "Inode {ino} is a device, socket or pipe with data";
    1036 BadSymlink Clear false true "Inode {ino} is a symbolic link that is not valid";
    1037 FaddrNotZero Clear false true "Inode {ino} has a fragment address ({found})";
    1038 BlocksHigh Clear false true "Inode {ino} has a high half of i_blocks ({found}) without the feature for it";
    1039 FileAclNotZero Clear false true "Inode {ino} has an attribute block ({block}) without the feature for it";
    1040 FileAclHigh Clear false true "Inode {ino} has a high half of i_file_acl ({found}) without the feature for it";
    1041 FileAclBad Clear false true "Inode {ino} has its attributes in block {block}, which is not possible";
    1042 FragmentFields Clear false true "Inode {ino} has fragment fields";
    1043 DirSizeHigh Clear false true "Directory {ino} has a high half of its size ({found})";
    1044 IllegalBlock Clear false true "Inode {ino}, block {lblk}: block {block} of the volume cannot belong to it";
    1045 IllegalIndirect Clear false true "Inode {ino}: indirect block {block} for block {lblk} cannot belong to it";
    1046 TooManyIllegal Clear false true "Inode {ino} has too many blocks that cannot belong to it";
    1047 TooBig Truncate false true "Inode {ino} has block {lblk} far beyond what such a file can have";
    1048 SizeWrong Fix false true "Inode {ino} has size {found} instead of {expected}";
    1049 BlocksWrong Fix true true "Inode {ino} has an i_blocks of {found} instead of {expected}";
    1050 ZeroLengthDirectory Clear false true "Inode {ino} is a directory without a block";
    1051 ExtentHeader Clear false true "Inode {ino} has an extent header that cannot be read";
    1052 ExtentNode Clear false true "Inode {ino}: the extent node in block {block} (for block {lblk}) is damaged";
    1053 ExtentRange Clear false true "Inode {ino}: the extent of block {lblk} lies at block {block}, which is not possible";
    1054 ExtentLength Clear false true "Inode {ino}: the extent of block {lblk} has length {found}, which is not possible";
    1055 ExtentOrder Clear false true "Inode {ino}: the extent of block {lblk} is out of order";
    1056 ExtentIndexKey Fix false true "Inode {ino}: the index entry of block {block} says {found} where {expected} follows";
    1057 ExtentChecksum Fix false true "Inode {ino}: the extent node in block {block} is plausible, but its checksum is wrong";
    1058 ExtentTooDeep Fix true true "Inode {ino}: the extent tree is deeper than its extents need";
    1059 ExtentPastEnd Clear false true "Inode {ino}: the extent of block {lblk} ends beyond the largest file";
    1060 ExtentUnwrittenDir Fix false true "Directory {ino}: the extent of block {lblk} is not written";
    1061 DirHole Fix false true "Directory {ino}: block {lblk} should be block {expected}";
    1062 CriticalCollision Clear false true "Inode {ino}: indirect block {block} lies on metadata of the file system";
    1063 BadBlocksInvalid Clear false true "The inode of bad blocks is not valid";
    1064 BadBlockIllegal Clear false true "The list of bad blocks names block {block}, which is not possible";
    1065 BadBlockPrimary Clear false true "The list of bad blocks names block {block}, which holds the superblock or descriptors";
    1066 XattrBlockBad Clear false true "Inode {ino}: its attribute block {block} is damaged ({label})";
    1067 XattrBlockChecksum Fix false true "The attribute block {block} of inode {ino} is plausible, but its checksum is wrong";
    1068 XattrRefcount Fix true true "The attribute block {block} has a reference count of {found} instead of {expected}";
    1069 XattrInodeBad Clear false true "Inode {ino}: the attributes in the inode are damaged ({label})";
    1070 XattrHash Clear false true "Inode {ino}: an attribute has hash {found}, which is wrong";
    1071 XattrValueInode Clear false true "Inode {ino}: an attribute's value is to be in inode {found}, which is not possible";
    1072 EaInodeFlagMissing Fix false true "Inode {found} holds an attribute of inode {ino}, but lacks the flag for it";
    1073 EaInodeRefcount Fix false true "Inode {ino} holds an attribute's value with a reference count of {found} instead of {expected}";
    1074 EaInodeHash Fix false true "Inode {ino} holds an attribute's value with hash {found} instead of {expected}";
    1075 ClusterUnaligned Clone false true "Inode {ino} has blocks at another place of their cluster than they belong";
    1076 UninitExtentDir Fix false true "Inode {ino}: unwritten extents in a place that allows none";
    1077 QuotaInodeUnused Clear false true "Inode {ino} is reserved for quota, but the feature quota is not set";
    1078 TimeNegative Fix true true "Inode {ino} has a time before 1970 that was meant to be after 2038";
    1079 BlockBitmapConflict Relocate false true "The block bitmap of group {group} in block {block} lies on other metadata";
    1080 InodeBitmapConflict Relocate false true "The inode bitmap of group {group} in block {block} lies on other metadata";
    1081 InodeTableConflict Relocate false true "The inode table of group {group} at block {block} lies on other metadata";
    1082 InodeInBadBlock Clear false true "Inode {ino} lies in block {block}, which is on the list of bad blocks";
    1083 ProjectInodeBad Fix false true "Inode {ino} is reserved for quota, but is no regular file";
    1084 XattrNoFeature Fix false true "Inode {ino} has attributes, but the feature ext_attr is not set";
    1085 HtreeTooDeep Clear false true "Directory {ino}: its index has {found} levels, more than are possible";
    1086 HtreeHashVersion Clear false true "Directory {ino}: its index has hash version {found}, which is not known";
    1087 SpecialSize Fix false true "Inode {ino} is a device, socket or pipe, but has size {found}";
    1088 ExtentMax Fix false true "Inode {ino}: an extent node says that it has room for {found} entries instead of {expected}";
    1089 ExtentDepth Fix false true "Inode {ino}: its extent tree has depth {expected}, but says {found}";
    1090 ExtentNodeDepth Fix false true "Inode {ino}: the extent node in block {block} has depth {expected}, but says {found}";
    1101 MultiplyClaimed Clone false true "Inode {ino} shares {found} blocks with others, from block {block}";
    1102 MultiplyClaimedDelete Delete false true "The blocks of inode {ino} cannot be copied: no space";
    1103 MultiplyClaimedMetadata Clone false true "Inode {ino} claims {found} blocks that hold metadata of the file system, from block {block}";
    2001 EntryUnused Clear true true "Directory {dir}: entry {label} points to inode {ino}, which is not in use";
    2002 EntryBadInode Clear false true "Directory {dir}: entry {label} points to inode {ino}, which does not exist";
    2003 EntrySelf Clear false true "Directory {dir}: entry {label} points to the directory itself";
    2004 EntryRoot Clear false true "Directory {dir}: entry {label} points to the root";
    2005 EntryReserved Clear false true "Directory {dir}: entry {label} points to inode {ino}, which is the file system's own";
    2006 EntrySlash Fix false true "Directory {dir}: entry {label} has a slash or a zero in its name";
    2007 EntryNoName Clear false true "Directory {dir}: an entry of inode {ino} has no name";
    2008 EntrySecondLink Clear false true "Directory {dir}: entry {label} is a second link to directory {ino}";
    2009 EntryFileType Fix true true "Directory {dir}: entry {label} of inode {ino} has file type {found} instead of {expected}";
    2010 EntryFileTypeSet Fix true true "Directory {dir}: entry {label} has a file type ({found}), which this file system does not keep";
    2011 DotMissing Fix false true "Directory {dir} has no entry \".\"";
    2012 DotWrongInode Fix false true "Directory {dir}: \".\" points to inode {ino}";
    2013 DotNotFirst Fix false true "Directory {dir}: the first entry is {label} and not \".\"";
    2014 DotLong Split true true "Directory {dir}: the entry \".\" is too long";
    2015 DotDotMissing Fix false true "Directory {dir} has no entry \"..\"";
    2016 DotDotNotSecond Fix false true "Directory {dir}: the second entry is {label} and not \"..\"";
    2017 DotTerminator Fix false true "Directory {dir}: the entry {label} is not ended by a zero";
    2018 DotDuplicate Fix false true "Directory {dir}: there is a second entry {label}";
    2019 BlockCorrupt Salvage false true "Directory {dir}, block {lblk}, offset {offset}: the entries are damaged";
    2020 BlockChecksum Fix false true "Directory {dir}, block {lblk}: plausible, but its checksum is wrong";
    2021 BlockMissing Allocate false true "Directory {dir}: block {lblk} is missing";
    2022 DuplicateName Rename false true "Directory {dir}: there is a second entry {label}";
    2023 EncryptedNameShort Clear false true "Directory {dir}: the encrypted name {label} is too short";
    2024 EncryptedChild Clear false true "Directory {dir} is encrypted, but its entry {label} points to inode {ino}, which is not";
    2025 EncryptedPolicy Clear false true "Directory {dir}: entry {label} points to inode {ino}, which is encrypted otherwise";
    2026 NameEncoding Fix false true "Directory {dir}: {label} is not a name in the file system's encoding";
    2027 HtreeIndex Rebuild false true "Directory {dir}: its index is damaged ({label}, block {lblk})";
    2028 HtreeChecksum Rebuild false true "Directory {dir}: the checksum of its index in block {lblk} is wrong";
    2029 InodePastUnused Fix true true "Directory {dir}: entry {label} points to inode {ino}, which its group counts among the never used";
    2030 TailMissing Fix false true "Directory {dir}, block {lblk}: there is no room for the checksum";
    2031 InlineDirSize Fix false true "Directory {dir}: the size of its inline part is not valid";
    2032 EntryEaInode Clear false true "Directory {dir}: entry {label} points to inode {ino}, which holds an attribute's value";
    2033 InodePastUninit Fix true true "Directory {dir}: entry {label} points to inode {ino} in a group that is marked as not initialised";
    2034 EntryTooLong Clear false true "Directory {dir}: entry {label} is too long";
    2035 DirTooBig Truncate false true "Directory {dir}: block {lblk} is too far behind";
    3001 RootMissing Create false true "There is no root directory";
    3002 LostFoundMissing Create true true "There is no /lost+found";
    3003 LostFoundNotDirectory Rename false true "/lost+found is no directory (inode {ino})";
    3004 DirectoryUnconnected Connect false true "Directory {ino} is not reachable (it was in inode {dir})";
    3005 DotDotWrong Fix false true "Directory {ino}: \"..\" points to inode {found} instead of {expected}";
    3006 LostFoundNoSpace Create false true "There is no space for /lost+found";
    3007 LostFoundInline Fix false true "/lost+found has inline data";
    3008 LostFoundEncrypted Rename false true "/lost+found is encrypted";
    3009 DirectoryLoop Connect false true "Directory {ino} lies in a loop of directories";
    3010 Rehash Rebuild false true "Directory {ino} is rebuilt";
    3011 ReconnectFailed Clear false false "Inode {ino} cannot be connected: no space in /lost+found";
    4001 LinkCount Fix true true "Inode {ino} has a link count of {found} instead of {expected}";
    4002 Unattached Connect false true "Inode {ino} is not reachable";
    4003 UnattachedEmpty Clear true true "Inode {ino} is not reachable and empty";
    4004 EaInodeUnattached Connect false true "Inode {ino} holds the value of an attribute that nobody has";
    4005 DirNlinkFeature Fix true true "A directory has too many subdirectories, but the feature dir_nlink is not set";
    5001 BlockBitmap Fix true true "Group {group}: the block bitmap is wrong for {found} clusters, from block {block}";
    5002 InodeBitmap Fix true true "Group {group}: the inode bitmap is wrong for {found} inodes, from inode {ino}";
    5003 BlockBitmapPadding Fix true true "Group {group}: the end of the block bitmap is not filled";
    5004 InodeBitmapPadding Fix true true "Group {group}: the end of the inode bitmap is not filled";
    5005 GroupFreeBlocks Fix true true "Group {group}: {found} free clusters are counted instead of {expected}";
    5006 GroupFreeInodes Fix true true "Group {group}: {found} free inodes are counted instead of {expected}";
    5007 GroupDirectories Fix true true "Group {group}: {found} directories are counted instead of {expected}";
    5008 FreeBlocks Fix true true "The superblock counts {found} free blocks instead of {expected}";
    5009 FreeInodes Fix true true "The superblock counts {found} free inodes instead of {expected}";
    5010 BlockBitmapChecksum Fix true true "Group {group}: the checksum of the block bitmap is wrong";
    5011 InodeBitmapChecksum Fix true true "Group {group}: the checksum of the inode bitmap is wrong";
    5012 UninitInUse Fix true true "Group {group} is marked as not initialised, but is in use";
    5013 UnusedTooMany Fix true true "Group {group} counts {found} inodes as never used, at most {expected} are";
    6001 QuotaFileBad Rebuild true true "The quota file of type {label} is damaged";
    6002 QuotaUsage Fix true true "The quota file of type {label} does not agree with what is in use";
    6003 QuotaInode Clear false true "The superblock names inode {ino} as quota file, but it is none that can be used";
}
